//! What the kernel allows this process to have.

use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};

/// As many descriptors as may be had, for as long as this lives.
///
/// What must not fail for want of a descriptor, such as finding the processes that are to be killed,
/// is done under it. A process that is forked meanwhile would keep the higher limit.
#[derive(Debug)]
#[must_use]
pub struct MoreDescriptors {
    before: Option<(rlim_t, rlim_t)>,
}

impl MoreDescriptors {
    /// Raises the soft limit to the hard one.
    pub fn allow() -> Self {
        let before = getrlimit(Resource::RLIMIT_NOFILE).ok().filter(|(soft, hard)| soft < hard);
        if let Some((_, hard)) = before {
            // Where that fails, what follows makes do with what there is.
            let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
        }
        Self { before }
    }
}

impl Drop for MoreDescriptors {
    fn drop(&mut self) {
        if let Some((soft, hard)) = self.before {
            let _ = setrlimit(Resource::RLIMIT_NOFILE, soft, hard);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_comes_back() {
        let before = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        let more = MoreDescriptors::allow();
        let during = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        assert_eq!(during, (before.1, before.1));
        drop(more);
        assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).unwrap(), before);
    }
}
