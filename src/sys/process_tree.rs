//! A process with everything that it started: found, frozen and killed.
//!
//! # Why freezing makes it exact
//!
//! A fork fails with a signal pending, so once SIGSTOP was sent to a process it has no new children.
//! The tree is therefore frozen from the top down, and looked at again until a look finds nobody
//! new and nobody dead: that one saw a tree in which nobody was born and nobody lost a parent, so it
//! is complete. Children of a process that dies go to the next subreaper above, which is the root if
//! it is one, and are found there; but a look that had passed the root by then, and came to the
//! dying process after, has seen them nowhere. A process outside the tree, or inside and not yet
//! frozen, may send SIGCONT; so after the kill there is one more look.
//!
//! The root goes last: as long as it is there, stopped, whoever loses a parent in the kill comes to
//! it and can't be lost.
//!
//! # Why no stranger is ever signalled
//!
//! A pid from a listing may mean another process by the time it is used. Each process is opened as a
//! [`PidFd`] first; then its parent must be one that we hold, and that one must still have its pid.
//! Only then is it signalled, through the pidfd.
//!
//! # What it costs
//!
//! A kernel with `CONFIG_PROC_CHILDREN`, as distributions build it, lists a process's children: one
//! look is a few small files for each process of the tree. Without it every process of the machine
//! is asked for its parent, which takes about 4 µs each.
//!
//! `procfs` would take longer for either: 12 µs instead of 7 to list the children of a process with
//! one thread; and 9 µs instead of 6, with 9 allocations instead of 4, to list a process of the
//! machine with its parent, which would have to be checked against a pidfd all the same.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::unistd::{getpid, gettid};
use rustc_hash::{FxHashMap, FxHashSet};

use super::pidfd::PidFd;
use super::proc_file::{self, has_child_lists, listed_children, numbered_entries};

/// How often a tree is looked at until nobody new is found. Only one that changes all the time
/// needs more looks than it is deep, and it must not hold us up for ever.
const MAX_LOOKS: u32 = 64;

/// The same where nothing is frozen, so that it may be changing for good reasons.
const SNAPSHOT_LOOKS: u32 = 4;

/// How many processes of a tree are frozen before they are killed, since each takes an fd.
const MAX_FROZEN: usize = 256;

/// The live processes below `pid`, parents before their children. Doesn't block.
///
/// A snapshot of something that moves: who is forked or orphaned meanwhile may be missing.
pub fn descendants(pid: u32) -> Vec<u32> {
    let Ok(root) = PidFd::try_open(pid) else {
        return Vec::new();
    };
    let mut tree = Tree::new(&root, pid, &[]);
    tree.gather();
    tree.members.iter().map(|member| member.pid).collect()
}

/// What came of signalling a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Signalled {
    /// So many processes were signalled, the root among them.
    Sent(usize),
    /// The root was gone already; what it left behind is its subreaper's.
    Gone,
    /// This process may not signal the root: it has given up the rights that it had when it
    /// started it, say.
    Refused,
}

/// Kills a process and everything below it.
///
/// None of them runs another instruction of its own once this returns, though the kernel may still
/// be freeing their memory. `root_pid` is the pid that `root` has or had. Doesn't block.
pub fn kill_tree(root: &PidFd, root_pid: u32) -> Signalled {
    match root.signal(libc::SIGSTOP) {
        Ok(true) => {}
        Ok(false) => return Signalled::Gone,
        Err(_) => return Signalled::Refused,
    }
    let killed = Tree::new(root, root_pid, &[]).kill_members();
    Signalled::Sent(killed + usize::from(send(root, libc::SIGKILL)))
}

/// Sends a signal to a process and everything below it, from the top down.
///
/// Nothing is frozen, so a tree that is forking may be hit in part. Doesn't block.
pub fn signal_tree(root: &PidFd, root_pid: u32, signal: i32) -> Signalled {
    match root.signal(0) {
        Ok(true) => {}
        Ok(false) => return Signalled::Gone,
        Err(_) => return Signalled::Refused,
    }
    // Found before anyone is signalled, since who dies of it loses its children.
    let mut tree = Tree::new(root, root_pid, &[]);
    tree.gather();
    let members = tree.members.iter().map(|member| &member.process);
    let everyone = std::iter::once(root).chain(members);
    Signalled::Sent(everyone.filter(|process| send(process, signal)).count())
}

/// The children of the calling process that have not been reaped. Doesn't block.
pub fn children_of_self() -> Vec<u32> {
    let own_pid = std::process::id();
    let mut children =
        if has_child_lists() { listed_children(own_pid) } else { numbered_entries("/proc") };
    children.retain(|&pid| {
        PidFd::try_open(pid).is_ok_and(|process| parent_of(&process, pid) == Some(own_pid))
    });
    children
}

/// Kills every child of the calling process, with everything below it, but for the pids in
/// `except` and what is below those; says how many processes were signalled.
///
/// Meant for a subreaper, to whom orphans come. What another thread forks meanwhile may be left
/// over. The children stay zombies until they are reaped. Doesn't block.
pub fn kill_children_of_self(except: &[u32]) -> usize {
    let Ok(own) = PidFd::current() else { return 0 };
    Tree::new(&own, std::process::id(), except).kill_members()
}

/// The children of the thread to which orphans come.
///
/// It is kept open, since that saves two thirds of the time.
#[derive(Debug)]
pub struct ChildList(File);

impl ChildList {
    /// Where the calling process finds the orphans that come to it as a subreaper; `None` where the
    /// kernel has no such list, and in another thread than the main one.
    ///
    /// They come to the first thread that lives (`find_alive_thread` in the kernel's `exit.c`), and
    /// as long as the main thread does, that is the first.
    pub fn of_orphans() -> Option<Self> {
        let is_main = gettid() == getpid();
        File::open("/proc/thread-self/children").ok().filter(|_| is_main).map(Self)
    }

    /// Those that have not been reaped; `None` if it can't be read. Doesn't block.
    ///
    /// Complete if nobody reaps any meanwhile: it goes from each to the next.
    pub fn read(&self) -> Option<Vec<u32>> {
        proc_file::pids(&self.0).ok()
    }
}

impl AsFd for ChildList {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Whether a process is stopped, by a signal or a debugger.
pub fn is_stopped(pid: u32) -> bool {
    proc_file::is_stopped(pid)
}

/// Signals a process, if that is possible and allowed.
fn send(process: &PidFd, signal: i32) -> bool {
    process.signal(signal).unwrap_or(false)
}

fn is_alive(process: &PidFd) -> bool {
    process.has_exited().is_ok_and(|exited| !exited)
}

/// The parent of a process that is known by pid as well.
fn parent_of(process: &PidFd, pid: u32) -> Option<u32> {
    process.parent().or_else(|| {
        let parent = proc_file::parent(pid, &mut Vec::new())?;
        // The pid was this process's when it was read only if it is so still.
        process.has_pid().then_some(parent)
    })
}

/// A process below the root.
struct Member {
    pid: u32,
    process: PidFd,
    /// Whether it was killed, or its death was noticed.
    is_dead: bool,
}

/// A root and those below it that were found so far.
struct Tree<'a> {
    root: &'a PidFd,
    root_pid: u32,
    /// No members, and so nobody below them is found.
    except: &'a [u32],
    /// Parents before their children.
    members: Vec<Member>,
    /// Where in `members` the latest holder of a pid is.
    by_pid: FxHashMap<u32, usize>,
    /// Zombies that were met already.
    dead: FxHashSet<u32>,
    /// Whether each is stopped as it is found.
    freezes: bool,
    looks_left: u32,
    /// No more members can be held at once.
    is_full: bool,
    /// Whether the kernel lists children.
    has_lists: bool,
}

impl<'a> Tree<'a> {
    fn new(root: &'a PidFd, root_pid: u32, except: &'a [u32]) -> Self {
        Self {
            root,
            root_pid,
            except,
            members: Vec::new(),
            by_pid: FxHashMap::default(),
            dead: FxHashSet::default(),
            freezes: false,
            looks_left: SNAPSHOT_LOOKS,
            is_full: false,
            has_lists: has_child_lists(),
        }
    }

    /// Freezes and kills all but the root; says how many there were.
    fn kill_members(&mut self) -> usize {
        self.freezes = true;
        self.looks_left = MAX_LOOKS;
        let mut total = 0;
        let mut killed = 0;
        loop {
            self.gather();
            if self.members.len() == killed {
                break;
            }
            for member in &mut self.members[killed..] {
                send(&member.process, libc::SIGKILL);
                // Whom it has below it is known, so its death is no reason to look again.
                member.is_dead = true;
            }
            total += self.members.len() - killed;
            killed = self.members.len();
            if self.is_full {
                // The rest comes to the root as it loses its parents, and is found again there.
                self.members.clear();
                self.by_pid.clear();
                self.is_full = false;
                killed = 0;
            }
        }
        total
    }

    /// Finds all who are not members yet.
    fn gather(&mut self) {
        while self.looks_left > 0 {
            self.looks_left -= 1;
            if !self.look() || self.is_full {
                break;
            }
        }
    }

    /// One look at the whole tree; says whether it was changing, and another one is needed.
    fn look(&mut self) -> bool {
        let mut changing = false;
        if !self.has_lists {
            // Most are older than their children and have the lower pid, so that one look goes
            // all the way down.
            for pid in numbered_entries("/proc") {
                changing |= self.meet(pid);
            }
            return changing | self.note_deaths();
        }
        // The root is number 0. Members found on the way are looked at on the same way.
        let mut number = 0;
        while number <= self.members.len() {
            let pid = number.checked_sub(1).map_or(self.root_pid, |index| self.members[index].pid);
            // The youngest come last in the list, and are the most likely to be gone soon.
            for child in listed_children(pid).into_iter().rev() {
                changing |= self.meet(child);
            }
            number += 1;
        }
        changing | self.note_deaths()
    }

    /// Says whether a member has died since this was last asked.
    fn note_deaths(&mut self) -> bool {
        let mut has_died = false;
        for member in self.members.iter_mut().filter(|member| !member.is_dead) {
            member.is_dead = !is_alive(&member.process);
            has_died |= member.is_dead;
        }
        has_died
    }

    /// Takes in whoever has this pid if its parent is in the tree; says whether the tree changed.
    fn meet(&mut self, pid: u32) -> bool {
        // A quick answer for old zombies, however many, keeps us ahead of a tree that makes them.
        if self.is_full || self.dead.contains(&pid) || self.except.contains(&pid) {
            return false;
        }
        if self.holder(pid).is_some() {
            return false;
        }
        let process = match PidFd::try_open(pid) {
            Ok(process) => process,
            // It went since it was listed, and may have left us its children.
            Err(Errno::ESRCH) => return true,
            Err(errno) => {
                self.is_full = matches!(errno, Errno::EMFILE | Errno::ENFILE);
                return false;
            }
        };
        let parent = parent_of(&process, pid);
        // The parent had this pid while its child was asked, since it has it afterwards.
        let is_ours = parent.is_some_and(|parent| self.holder(parent).is_some());
        if !is_ours {
            return false;
        }
        if !is_alive(&process) {
            return self.dead.insert(pid);
        }
        if self.freezes {
            send(&process, libc::SIGSTOP);
        }
        self.by_pid.insert(pid, self.members.len());
        self.members.push(Member { pid, process, is_dead: false });
        self.is_full = self.freezes && self.members.len() >= MAX_FROZEN;
        true
    }

    /// The process in the tree that has this pid, if that is so now.
    fn holder(&self, pid: u32) -> Option<&PidFd> {
        let process = if pid == self.root_pid {
            self.root
        } else {
            &self.members[*self.by_pid.get(&pid)?].process
        };
        process.has_pid().then_some(process)
    }
}

#[cfg(test)]
mod tests {
    use std::env;
    use std::io::{BufRead, BufReader};
    use std::os::fd::AsFd;
    use std::process::{Child, Command, Stdio};

    use super::*;
    use crate::sys::poller::{Events, Interest, Poller};
    use crate::sys::{prctl, wait};

    /// A shell that runs a script and has written some pids, a line each.
    struct Shell {
        child: Child,
        process: PidFd,
        pids: Vec<u32>,
    }

    impl Shell {
        fn start(script: &str, lines: usize) -> Self {
            let mut child = Command::new("bash")
                .args(["-c", script])
                .stdout(Stdio::piped())
                .stdin(Stdio::piped())
                .spawn()
                .unwrap();
            let output = BufReader::new(child.stdout.take().unwrap());
            let pids = output.lines().take(lines).map(|line| line.unwrap().parse().unwrap());
            let pids = pids.collect();
            Self { process: PidFd::open(child.id()).unwrap(), pids, child }
        }

        fn kill(&self) -> usize {
            match kill_tree(&self.process, self.child.id()) {
                Signalled::Sent(count) => count,
                Signalled::Gone | Signalled::Refused => 0,
            }
        }
    }

    impl Drop for Shell {
        fn drop(&mut self) {
            self.kill();
            self.child.wait().unwrap();
        }
    }

    fn await_exit(process: &PidFd) {
        let poller = Poller::new().unwrap();
        poller.add(process.as_fd(), 0, Interest::READ).unwrap();
        poller.wait(&mut Events::with_capacity(1)).unwrap();
    }

    fn await_gone(pids: &[u32]) {
        for &pid in pids {
            if let Ok(process) = PidFd::open(pid) {
                await_exit(&process);
            }
        }
    }

    /// Runs `check` in a process where this test is alone, so that all children are its own.
    fn alone(test: &str, check: fn()) {
        const ALONE: &str = "DEADPOOL_TEST_IS_ALONE";
        if env::var_os(ALONE).is_some() {
            return check();
        }
        let output = Command::new(env::current_exe().unwrap())
            .args(["--exact", &format!("sys::process_tree::tests::{test}"), "--nocapture"])
            .env(ALONE, "1")
            .output()
            .unwrap();
        let report = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && report.contains("1 passed"), "{output:?}");
    }

    #[test]
    fn a_lone_process_is_its_own_tree() {
        let shell = Shell::start("echo $$; exec sleep 1000", 1);
        assert!(descendants(shell.child.id()).is_empty());
        assert_eq!(shell.kill(), 1);
        await_exit(&shell.process);
    }

    #[test]
    fn orphans_do_not_come_to_this_thread() {
        // Tests do not run in the main thread.
        assert!(ChildList::of_orphans().is_none());
    }

    #[test]
    fn grandchildren_and_new_sessions_are_found_and_killed() {
        let script = "setsid bash -c 'echo $$; sleep 1000 & echo $!; wait' & \
                      sleep 1000 & echo $!; wait";
        let shell = Shell::start(script, 3);
        let mut found = descendants(shell.child.id());
        let mut expected = shell.pids.clone();
        found.sort_unstable();
        expected.sort_unstable();
        assert_eq!(found, expected);
        assert_eq!(shell.kill(), 4);
        await_gone(&expected);
    }

    #[test]
    fn a_tree_that_forks_all_the_time_is_killed_whole() {
        alone("a_tree_that_forks_all_the_time_is_killed_whole", || {
            prctl::become_subreaper().unwrap();
            for _ in 0..10 {
                // Each function starts its successor and ends, so the chains never pause, and
                // their links lose their parents and come to us.
                let script = "f() { f & }; f & f & f & f & f & f & echo $$; wait";
                let mut shell = Shell::start(script, 1);
                assert!(shell.kill() >= 1);
                shell.child.wait().unwrap();
                kill_children_of_self(&[]);
                await_no_children();
            }
        });
    }

    /// Returns when all children have died. Never would if one was not killed.
    fn await_no_children() {
        loop {
            while wait::reap_any().unwrap().is_some() {}
            // SAFETY: the call takes no pointer. Without children, there is nothing to wait for.
            if unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) } < 0 {
                break;
            }
            std::thread::yield_now();
        }
    }

    #[test]
    fn asking_everyone_finds_the_same_as_the_lists() {
        let script = "bash -c 'sleep 1000 & sleep 1000 & echo $$; wait' & wait";
        let mut shell = Shell::start(script, 1);
        let mut tree = Tree::new(&shell.process, shell.child.id(), &[]);
        tree.has_lists = false;
        tree.gather();
        let mut asked: Vec<_> = tree.members.iter().map(|member| member.pid).collect();
        let mut listed = descendants(shell.child.id());
        assert_eq!(asked.len(), 3);
        asked.sort_unstable();
        listed.sort_unstable();
        assert_eq!(asked, listed);
        assert_eq!(tree.kill_members(), 3);
        await_gone(&asked);
        shell.child.kill().unwrap();
    }

    #[test]
    fn what_is_gone_or_a_zombie_is_left_alone() {
        let mut child = Command::new("true").spawn().unwrap();
        let process = PidFd::open(child.id()).unwrap();
        await_exit(&process);
        assert!(!descendants(std::process::id()).contains(&child.id()));
        child.wait().unwrap();
        assert_eq!(kill_tree(&process, child.id()), Signalled::Gone);
        // The pid of a live process with the pidfd of a dead one: nobody below it is touched.
        let shell = Shell::start("sleep 1000 & echo $!; wait", 1);
        assert_eq!(signal_tree(&process, shell.child.id(), libc::SIGKILL), Signalled::Gone);
        assert!(is_alive(&shell.process));
    }

    #[test]
    fn a_child_stays_until_it_is_reaped() {
        alone("a_child_stays_until_it_is_reaped", || {
            let mut child = Command::new("true").spawn().unwrap();
            await_exit(&PidFd::open(child.id()).unwrap());
            assert_eq!(children_of_self(), [child.id()]);
            child.wait().unwrap();
            assert!(children_of_self().is_empty());
        });
    }

    #[test]
    fn other_signals_reach_everyone_too() {
        let shell = Shell::start("sleep 1000 & echo $!; wait", 1);
        assert_eq!(
            signal_tree(&shell.process, shell.child.id(), libc::SIGTERM),
            Signalled::Sent(2)
        );
        await_exit(&shell.process);
        await_gone(&shell.pids);
    }

    #[test]
    fn orphans_are_killed_and_the_excepted_spared() {
        alone("orphans_are_killed_and_the_excepted_spared", || {
            prctl::become_subreaper().unwrap();
            let spared = Shell::start("sleep 1000 & echo $!; wait", 1);
            // The one in the middle goes, and leaves us its child and grandchild.
            let script = "bash -c 'sleep 1000 & echo $!; echo $$; wait' & read x";
            let mut gone = Shell::start(script, 2);
            drop(gone.child.stdin.take());
            gone.child.wait().unwrap();
            let mut children = children_of_self();
            children.sort_unstable();
            let mut expected = vec![spared.child.id(), gone.pids[1]];
            expected.sort_unstable();
            assert_eq!(children, expected);
            assert_eq!(kill_children_of_self(&[spared.child.id()]), 2);
            await_gone(&gone.pids);
            assert_eq!(kill_children_of_self(&[spared.child.id()]), 0);
            assert!(is_alive(&spared.process));
            assert_eq!(descendants(spared.child.id()), spared.pids);
        });
    }

    #[test]
    fn more_than_can_be_held_at_once_are_killed_too() {
        alone("more_than_can_be_held_at_once_are_killed_too", || {
            let script = "for i in {1..300}; do sleep 1000 & done; echo $$; wait";
            let mut shell = Shell::start(script, 1);
            prctl::become_subreaper().unwrap();
            assert_eq!(descendants(shell.child.id()).len(), 300);
            assert!(shell.kill() >= 301);
            shell.child.wait().unwrap();
            await_no_children();
        });
    }
}
