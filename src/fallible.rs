//! Allocations whose size a user or a peer chooses.
//!
//! Rust ends the process when it can't allocate; Python raises `MemoryError`. Whatever grows with the
//! data of a task is allocated here, and its caller goes on without it.

use crate::error::{Error, Result};

/// A copy of `bytes`.
///
/// # Errors
///
/// [`Error::OutOfMemory`].
pub fn copy_of(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut copy = Vec::new();
    append(&mut copy, bytes)?;
    Ok(copy)
}

/// Appends `bytes`, growing as a vector does.
///
/// # Errors
///
/// [`Error::OutOfMemory`], and `vector` is as it was.
pub fn append(vector: &mut Vec<u8>, bytes: &[u8]) -> Result<()> {
    vector.try_reserve(bytes.len()).map_err(|_| Error::OutOfMemory(bytes.len()))?;
    vector.extend_from_slice(bytes);
    Ok(())
}

/// Makes room for `more` bytes and no others.
///
/// # Errors
///
/// [`Error::OutOfMemory`], and `vector` is as it was.
pub fn reserve_exact(vector: &mut Vec<u8>, more: usize) -> Result<()> {
    vector.try_reserve_exact(more).map_err(|_| Error::OutOfMemory(more))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_not_be_had_is_an_error() {
        let mut vector = b"kept".to_vec();
        assert!(matches!(reserve_exact(&mut vector, usize::MAX / 2), Err(Error::OutOfMemory(_))));
        append(&mut vector, b" and more").unwrap();
        assert_eq!(copy_of(&vector).unwrap(), b"kept and more");
    }
}
