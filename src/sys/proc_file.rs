//! Small files of `/proc`, read without waiting for the process that they are about.
//!
//! What is read rarely is left to `procfs`. By hand is what is read for each process of a tree that
//! is being killed or measured, where `procfs` opens a directory more, and allocates eight times for
//! a `stat` file instead of once: 7 µs instead of 4.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;

use procfs::process::Process;

/// The directory of a process, which can't come to be another's once it is open.
pub(super) fn directory(pid: u32) -> Option<Process> {
    Process::new(i32::try_from(pid).ok()?).ok()
}

/// Reads all of a file into `buffer`, whose old contents are lost.
pub(super) fn read(path: &str, buffer: &mut Vec<u8>) -> io::Result<()> {
    let mut file = File::open(path)?;
    buffer.clear();
    let mut filled = 0;
    loop {
        // Not `read_to_end`: that asks for the size first, which `/proc` doesn't know.
        buffer.resize(filled + 1024, 0);
        match file.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    buffer.truncate(filled);
    Ok(())
}

/// The parent of a process, from its `stat` file.
pub(super) fn parent(pid: u32, buffer: &mut Vec<u8>) -> Option<u32> {
    read(&format!("/proc/{pid}/stat"), buffer).ok()?;
    parent_in(buffer)
}

/// Whether a process is stopped, by a signal or a debugger.
pub(super) fn is_stopped(pid: u32) -> bool {
    directory(pid)
        .and_then(|process| process.stat().ok())
        .is_some_and(|stat| matches!(stat.state, 'T' | 't'))
}

fn parent_in(stat: &[u8]) -> Option<u32> {
    // The name of the program comes before, in parentheses, and can contain anything.
    let name_end = stat.iter().rposition(|&byte| byte == b')')?;
    let fields = std::str::from_utf8(&stat[name_end + 1..]).ok()?;
    fields.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// The status of a zombie in the form of `wait(2)`, if we are allowed to know it.
pub(super) fn zombie_status(pid: u32) -> Option<i32> {
    let stat = directory(pid)?.stat().ok()?;
    let status = stat.exit_code?;
    // Who may not trace the process reads a zero. The link needs the same permission.
    let is_known = || status != 0 || fs::read_link(format!("/proc/{pid}/ns/user")).is_ok();
    (matches!(stat.state, 'Z' | 'X') && is_known()).then_some(status)
}

/// Whether the kernel was built to list the children of a thread.
pub(super) fn has_child_lists() -> bool {
    static HAS_LISTS: OnceLock<bool> = OnceLock::new();
    *HAS_LISTS.get_or_init(|| fs::exists("/proc/thread-self/children").unwrap_or(false))
}

/// The children of a process, the oldest first; or those of whoever has the pid now.
pub(super) fn listed_children(pid: u32) -> Vec<u32> {
    let mut children = Vec::new();
    let mut buffer = Vec::new();
    // Each thread has the children that it forked.
    for thread in numbered_entries(&format!("/proc/{pid}/task")) {
        if read(&format!("/proc/{pid}/task/{thread}/children"), &mut buffer).is_ok() {
            children.extend(pids_in(&buffer));
        }
    }
    children
}

/// The pids in an open file, from its beginning.
pub(super) fn pids(file: &File) -> io::Result<Vec<u32>> {
    let mut text = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        match file.read_at(&mut buffer, text.len() as u64)? {
            0 => return Ok(pids_in(&text).collect()),
            count => text.extend_from_slice(&buffer[..count]),
        }
    }
}

fn pids_in(list: &[u8]) -> impl Iterator<Item = u32> + '_ {
    let words = list.split(u8::is_ascii_whitespace);
    words.filter_map(|word| std::str::from_utf8(word).ok()?.parse().ok())
}

/// The entries of a directory that are numbers: the pids, or the threads of one.
pub(super) fn numbered_entries(directory: &str) -> Vec<u32> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use nix::sys::wait::{Id, WaitPidFlag, waitid};
    use nix::unistd::Pid;

    use super::*;

    #[test]
    fn a_name_can_contain_anything() {
        assert_eq!(parent_in(b"7 (a) Z 1 (\xff) R 42 7 7 0"), Some(42));
        assert_eq!(parent_in(b"7 (a) Z"), None);
        assert_eq!(parent_in(b""), None);
    }

    #[test]
    fn long_files_are_read_whole() {
        let mut buffer = vec![1; 10];
        read("/proc/self/stat", &mut buffer).unwrap();
        assert_eq!(parent_in(&buffer), Some(std::os::unix::process::parent_id()));
        read("/proc/kallsyms", &mut buffer)
            .or_else(|_| read("/proc/self/maps", &mut buffer))
            .unwrap();
        assert!(buffer.len() > 1024);
        assert!(read("/proc/self/no-such-file", &mut buffer).is_err());
    }

    #[test]
    fn a_zombie_has_its_status_until_it_is_reaped() {
        let mut child = Command::new("sh").args(["-c", "exit 77"]).spawn().unwrap();
        let pid = child.id();
        // Waits for its death without reaping it.
        waitid(
            Id::Pid(Pid::from_raw(pid.try_into().unwrap())),
            WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT,
        )
        .unwrap();
        assert_eq!(zombie_status(pid), Some(77 << 8));
        child.wait().unwrap();
        assert_eq!(zombie_status(pid), None);
    }

    #[test]
    fn the_living_have_no_status() {
        assert_eq!(zombie_status(std::process::id()), None);
        assert_eq!(
            parent(std::process::id(), &mut Vec::new()),
            Some(std::os::unix::process::parent_id())
        );
    }

    #[test]
    fn a_list_is_read_from_its_beginning_each_time() {
        let path = std::env::temp_dir().join(format!("deadpool-pids-{}", std::process::id()));
        let expected: Vec<u32> = (10_000..12_000).collect();
        let words: Vec<String> = expected.iter().map(u32::to_string).collect();
        fs::write(&path, words.join(" ")).unwrap();
        let file = File::open(&path).unwrap();
        fs::remove_file(path).unwrap();
        assert_eq!(pids(&file).unwrap(), expected);
        assert_eq!(pids(&file).unwrap(), expected);
    }

    #[test]
    fn lists_of_children_are_read() {
        assert_eq!(pids_in(b"12 345 6789 ").collect::<Vec<_>>(), [12, 345, 6789]);
        assert_eq!(pids_in(b"").count(), 0);
        assert!(listed_children(u32::MAX >> 1).is_empty());
    }
}
