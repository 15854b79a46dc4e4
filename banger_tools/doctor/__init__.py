"""What `banger doctor` looks at: every need of every feature, each check a function that changes nothing."""
