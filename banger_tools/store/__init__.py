"""The store: the filesystem is the database, one folder an object, its JSON inside."""
