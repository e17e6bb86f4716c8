//! The one clock that is read: `CLOCK_MONOTONIC`.

use crate::time::Time;

/// The present instant.
///
/// Doesn't block (no system call where the vDSO has the clock); async-signal-safe.
pub fn now() -> Time {
    let mut spec = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `spec` is a valid place to write a timespec to. The call can't fail then, since every
    // Linux has this clock; were it to fail, the instant would be zero, which is long past.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut spec) };
    let seconds = u64::try_from(spec.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(spec.tv_nsec).unwrap_or(0);
    Time::from_nanos(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_goes_back() {
        let first = now();
        let second = now();
        assert!(first.as_nanos() > 0);
        assert!(second >= first);
    }
}
