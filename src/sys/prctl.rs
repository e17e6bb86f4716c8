//! What a process or thread tells the kernel about itself.

use std::ffi::CStr;

use nix::sys::prctl;

use super::FailedTo;
use crate::error::Result;

/// Makes the calling process the new parent of every descendant whose parent dies.
///
/// Not inherited by a fork, and kept by an exec.
pub fn become_subreaper() -> Result<()> {
    prctl::set_child_subreaper(true).failed_to("become a child subreaper")
}

/// Names the calling thread, for `ps` and `top`; all beyond 15 bytes is cut off.
pub fn set_name(name: &CStr) -> Result<()> {
    prctl::set_name(name).failed_to("name a thread")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_cut_to_what_fits() {
        std::thread::spawn(|| {
            set_name(c"deadpool-supervisor").unwrap();
            assert_eq!(prctl::get_name().unwrap().as_c_str(), c"deadpool-superv");
        })
        .join()
        .unwrap();
    }
}
