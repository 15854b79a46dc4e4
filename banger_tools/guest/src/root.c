#include "root.h"

#include "console.h"
#include "file.h"
#include "grow.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#define DISK_WAIT_MS 10000
#define RAMFS_MAGIC_NUMBER 0x858458f6
#define TMPFS_MAGIC_NUMBER 0x01021994

/* The mounts that move with us into the new root. */
static const char *const carried[] = { "/dev", "/proc", "/sys", "/run" };

/* A folder of its own on another device than the one above it is a mount point already. */
static bool is_mounted(const char *path)
{
	struct stat here, above;
	char parent[300];

	snprintf(parent, sizeof parent, "%s/..", path);
	return stat(path, &here) == 0 && stat(parent, &above) == 0 && here.st_dev != above.st_dev;
}

static bool mount_at(const char *type, const char *path, unsigned long flags, const char *options)
{
	if (is_mounted(path))
		return true;
	mkdir(path, 0755); /* it may be there; a root that is read-only shows below */
	if (mount(type, path, type, flags, options) == 0 || errno == EBUSY)
		return true;
	say_errno("cannot mount %s on '%s'", type, path);
	return false;
}

static void link_descriptors(void)
{
	/* devtmpfs has none of these, and images without udev need them */
	if (symlink("/proc/self/fd", "/dev/fd") == 0) {
		symlink("/proc/self/fd/0", "/dev/stdin");
		symlink("/proc/self/fd/1", "/dev/stdout");
		symlink("/proc/self/fd/2", "/dev/stderr");
	}
}

void mount_early(void)
{
	mount_at("proc", "/proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
	mount_at("sysfs", "/sys", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
	mount_at("devtmpfs", "/dev", MS_NOSUID, "mode=0755");
	mount_at("tmpfs", "/run", MS_NOSUID | MS_NODEV, "mode=0755");
	link_descriptors();
}

bool in_initrd(void)
{
	struct statfs status;

	if (statfs("/", &status) < 0)
		return false;
	return (unsigned long)status.f_type == RAMFS_MAGIC_NUMBER || (unsigned long)status.f_type == TMPFS_MAGIC_NUMBER;
}

static bool wait_device(const char *device)
{
	for (int64_t deadline = now_ms() + DISK_WAIT_MS; access(device, F_OK) < 0; sleep_ms(10)) {
		if (now_ms() >= deadline) {
			say("disk '%s' did not appear within %d s", device, DISK_WAIT_MS / 1000);
			return false;
		}
	}
	return true;
}

/* The newest layer lives in a tmpfs below `place`; the result is mounted on `place`/root. */
static bool lay_overlay(const char *lower, const char *place)
{
	char path[300], options[900];
	static const char *const folders[] = { "upper", "work", "root" };

	if (mount("tmpfs", place, "tmpfs", 0, "mode=0755") < 0) {
		say_errno("cannot mount a tmpfs on '%s'", place);
		return false;
	}
	for (size_t i = 0; i < LENGTH(folders); i++) {
		snprintf(path, sizeof path, "%s/%s", place, folders[i]);
		mkdir(path, 0755);
	}
	snprintf(options, sizeof options, "lowerdir=%s,upperdir=%s/upper,workdir=%s/work", lower, place, place);
	snprintf(path, sizeof path, "%s/root", place);
	if (mount("overlay", path, "overlay", 0, options) == 0)
		return true;
	say_errno("cannot lay an overlay over the read-only root");
	umount2(place, MNT_DETACH);
	return false;
}

/* Remove what the initrd held: its memory is worth more than its files. Other filesystems are not entered. */
static void remove_tree(int folder, dev_t device)
{
	DIR *stream = fdopendir(folder);

	for (struct dirent *entry; stream && (entry = readdir(stream));) {
		struct stat status;
		int below;

		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
			continue;
		if (fstatat(folder, entry->d_name, &status, AT_SYMLINK_NOFOLLOW) < 0 || status.st_dev != device)
			continue;
		if (!S_ISDIR(status.st_mode)) {
			unlinkat(folder, entry->d_name, 0);
			continue;
		}
		below = openat(folder, entry->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (below >= 0)
			remove_tree(below, device);
		unlinkat(folder, entry->d_name, AT_REMOVEDIR);
	}
	if (stream)
		closedir(stream);
}

static void empty_initrd(void)
{
	struct stat status;
	int folder = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (folder >= 0 && fstat(folder, &status) == 0)
		remove_tree(folder, status.st_dev);
}

static void carry_mounts(const char *root)
{
	char target[300];

	for (size_t i = 0; i < LENGTH(carried); i++) {
		if (!is_mounted(carried[i]))
			continue;
		snprintf(target, sizeof target, "%s%s", root, carried[i]);
		mkdir(target, 0755);
		if (mount(carried[i], target, NULL, MS_MOVE, NULL) < 0)
			say_errno("cannot move '%s' into the root; the image has no such folder and cannot get one",
				  carried[i]);
	}
}

/* Make a mounted tree "/": the one move that pivot_root cannot do from an initramfs. */
static bool become_root(const char *root, bool clean)
{
	carry_mounts(root);
	if (chdir(root) < 0) {
		say_errno("cannot enter the root");
		return false;
	}
	if (clean)
		empty_initrd();
	if (mount(".", "/", NULL, MS_MOVE, NULL) < 0 || chroot(".") < 0 || chdir("/") < 0) {
		say_errno("cannot switch to the root");
		return false;
	}
	return true;
}

static bool mount_root(const struct config *config, const char *target)
{
	unsigned long flags = config->read_only ? MS_RDONLY : 0;

	if (mount(config->root, target, config->root_type, flags, NULL) == 0)
		return true;
	/* a journal that waits for its replay on a disk that nobody may write */
	if (config->read_only && mount(config->root, target, config->root_type, flags, "noload") == 0)
		return true;
	say_errno("cannot mount '%s' (%s) as root", config->root, config->root_type);
	return false;
}

bool switch_to_root(const struct config *config)
{
	const char *root = "/newroot";

	if (!wait_device(config->root))
		return false;
	mkdir("/newroot", 0755);
	mkdir("/overlay", 0755);
	if (!mount_root(config, root))
		return false;
	if (config->grow && !config->read_only)
		grow(config->root, root);
	if (config->read_only && lay_overlay(root, "/overlay"))
		root = "/overlay/root";
	return become_root(root, true);
}

/* Any folder that a read-only image has can carry the overlay. */
static const char *spare_folder(void)
{
	static const char *const places[] = { "/mnt", "/tmp", "/srv", "/opt", "/home", "/root", "/var", "/etc" };

	for (size_t i = 0; i < LENGTH(places); i++) {
		if (access(places[i], F_OK) == 0)
			return places[i];
	}
	return NULL;
}

void prepare_mounted_root(const struct config *config)
{
	const char *place = config->read_only ? spare_folder() : NULL;
	char root[300];

	if (!config->read_only) {
		mount(NULL, "/", NULL, MS_REMOUNT, NULL); /* fails where it is no disk, and is writable then */
		if (config->grow)
			grow(config->root, "/");
		return;
	}
	if (!place || !lay_overlay("/", place))
		return;
	snprintf(root, sizeof root, "%s/root", place);
	become_root(root, false);
}

void mount_work(const struct config *config)
{
	if (!config->work[0] || !wait_device(config->work))
		return;
	mkdir("/root", 0700);
	if (mount(config->work, "/root", "ext4", MS_NOSUID | MS_NODEV, NULL) < 0)
		say_errno("cannot mount the work disk '%s' on '/root'", config->work);
	else if (config->grow)
		grow(config->work, "/root");
}

static bool is_empty(const char *path)
{
	DIR *folder = opendir(path);
	int entries = 0;

	if (!folder)
		return errno == ENOENT;
	while (entries <= 2 && readdir(folder))
		entries++;
	closedir(folder);
	return entries <= 2;
}

void mount_late(bool with_tmp)
{
	mount_at("devpts", "/dev/pts", MS_NOSUID | MS_NOEXEC, "mode=0620,gid=5,ptmxmode=0666");
	mount_at("tmpfs", "/dev/shm", MS_NOSUID | MS_NODEV, "mode=1777");
	if (with_tmp && is_empty("/tmp"))
		mount_at("tmpfs", "/tmp", MS_NOSUID | MS_NODEV, "mode=1777");
}
