//! Whether the kernel has been killing for lack of memory.
//!
//! The kernel doesn't say of a dead process that the OOM killer did it: it looks like any SIGKILL. It
//! counts such kills, though, for each cgroup with a memory controller and for the whole machine.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use procfs::ProcessCGroup;
use procfs::process::{MountInfo, Process};

use super::descriptor::above_standard;
use super::proc_file;

/// Watches the narrowest counter there is for a process.
///
/// A process that died of SIGKILL while the counter went up was probably killed for memory; if it
/// did not go up, it was not. How sure the first is depends on who else is counted.
#[derive(Debug)]
pub struct OomWatch {
    /// Kept open, since the cgroup may be out of reach for a new path later.
    counter: Option<File>,
}

impl OomWatch {
    /// Watches the cgroup that a process is in; it and its future children stay there as a rule.
    ///
    /// Doesn't block.
    pub fn of_process(pid: u32) -> Self {
        let cgroups = proc_file::directory(pid).and_then(|process| process.cgroups().ok());
        let cgroups = cgroups.map_or_else(Vec::new, |cgroups| cgroups.0);
        let mounts = Process::myself().and_then(|own| own.mountinfo());
        let mounts = mounts.map_or_else(|_| Vec::new(), |mounts| mounts.0);
        let machine = PathBuf::from("/proc/vmstat");
        let counter = candidates(&cgroups, &mounts)
            .into_iter()
            .chain([machine])
            .filter_map(|path| Some(File::from(above_standard(File::open(path).ok()?).ok()?)))
            .find(|file| read_count(file).is_some());
        Self { counter }
    }

    /// Watches the whole machine.
    ///
    /// Doesn't block.
    pub fn of_machine() -> Self {
        Self {
            counter: File::open("/proc/vmstat")
                .ok()
                .and_then(|file| above_standard(file).ok())
                .map(File::from),
        }
    }

    /// Watches a file that looks like the kernel's.
    #[cfg(test)]
    pub fn of_file(counter: File) -> Self {
        Self { counter: Some(counter) }
    }

    /// How many processes were killed for memory so far; `None` where that can't be known.
    ///
    /// Doesn't block.
    pub fn count(&self) -> Option<u64> {
        read_count(self.counter.as_ref()?)
    }
}

fn read_count(file: &File) -> Option<u64> {
    let mut text = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        match file.read_at(&mut buffer, text.len() as u64).ok()? {
            0 => break,
            count => text.extend_from_slice(&buffer[..count]),
        }
    }
    count_in(std::str::from_utf8(&text).ok()?)
}

/// All three files have a line of a name and a number each.
///
/// `procfs::vmstat()` would serve one of them only, and worse: it needs a free fd each time, loses
/// all numbers if one is beyond an `i64`, and makes 392 allocations in some five times the time.
fn count_in(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

/// The files that may have the counter, the best one first.
fn candidates(cgroups: &[ProcessCGroup], mounts: &[MountInfo]) -> Vec<PathBuf> {
    // Only the unified hierarchy is listed without controllers.
    let unified = cgroups.iter().rfind(|cgroup| cgroup.controllers.is_empty());
    let unified = unified
        .and_then(|cgroup| locate(&cgroup.pathname, mounts, |mount| mount.fs_type == "cgroup2"));
    let memory = cgroups.iter().rfind(|cgroup| cgroup.controllers.iter().any(|it| it == "memory"));
    let memory = memory.and_then(|cgroup| {
        locate(&cgroup.pathname, mounts, |mount| {
            mount.fs_type == "cgroup" && mount.super_options.contains_key("memory")
        })
    });
    let unified = unified.map(|directory| directory.join("memory.events"));
    let memory = memory.map(|directory| directory.join("memory.oom_control"));
    unified.into_iter().chain(memory).collect()
}

/// Where the cgroup `path` is to be found in the file system.
fn locate(path: &str, mounts: &[MountInfo], is_wanted: fn(&MountInfo) -> bool) -> Option<PathBuf> {
    mounts.iter().filter(|mount| is_wanted(mount)).find_map(|mount| {
        // In a container, often just its own part of the hierarchy is mounted.
        let inside = Path::new(path).strip_prefix(&mount.root).ok()?;
        Some(mount.mount_point.join(inside))
    })
}

#[cfg(test)]
mod tests {
    use procfs::process::MountInfos;
    use procfs::{FromRead, ProcessCGroups};

    use super::*;

    const MOUNTS: &str = "\
30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - tmpfs tmpfs rw,mode=755
31 30 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
32 30 0:28 /docker/abc /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
";

    #[test]
    fn both_hierarchies_are_looked_up() {
        let cgroups = "4:memory:/docker/abc/job\n3:cpu,cpuacct:/\n0::/user.slice/a:b\n";
        assert_eq!(
            candidates_in(cgroups, MOUNTS),
            [
                Path::new("/sys/fs/cgroup/unified/user.slice/a:b/memory.events"),
                Path::new("/sys/fs/cgroup/memory/job/memory.oom_control"),
            ]
        );
        assert!(candidates_in("4:memory:/elsewhere\n", MOUNTS).is_empty());
        assert!(candidates_in("1:name=systemd:/\n", MOUNTS).is_empty());
        assert!(candidates_in(cgroups, "").is_empty());
    }

    #[test]
    fn a_controller_may_share_its_hierarchy() {
        let mounts = "32 30 0:28 / /cg/a rw master:1 - cgroup none rw,cpu\n\
                      33 30 0:29 / /cg/b rw shared:2 master:1 - cgroup none rw,hugetlb,memory\n";
        assert_eq!(
            candidates_in("2:hugetlb,memory:/job\n", mounts),
            [Path::new("/cg/b/job/memory.oom_control")]
        );
    }

    #[test]
    fn a_process_that_is_gone_leaves_the_machine_to_watch() {
        let machine = OomWatch::of_process(u32::MAX >> 1).count();
        assert_eq!(machine.is_some(), vmstat_counter().is_some());
    }

    fn vmstat_counter() -> Option<i64> {
        procfs::vmstat().ok()?.get("oom_kill").copied()
    }

    fn candidates_in(cgroups: &str, mounts: &str) -> Vec<PathBuf> {
        let cgroups = ProcessCGroups::from_read(cgroups.as_bytes()).unwrap();
        let mounts = MountInfos::from_read(mounts.as_bytes()).unwrap();
        candidates(&cgroups.0, &mounts.0)
    }

    #[test]
    fn the_counter_is_found_among_others() {
        assert_eq!(count_in("low 0\noom 4\noom_kill 3\noom_group_kill 1\n"), Some(3));
        assert_eq!(count_in("oom_kill_disable 0\nunder_oom 0\noom_kill 7\n"), Some(7));
        assert_eq!(count_in("oom_kill_disable 0\n"), None);
    }

    #[test]
    fn this_machine_has_a_counter_that_does_not_move_by_itself() {
        let watch = OomWatch::of_process(std::process::id());
        let before = watch.count();
        assert!(before.is_some() || !Path::new("/proc/vmstat").exists());
        assert!(watch.count() >= before);
    }
}
