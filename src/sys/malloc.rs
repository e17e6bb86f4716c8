//! The C library's allocator, as far as it can be asked for anything.

use std::ffi::c_int;

/// Gives unused heap memory back to the system. False where the C library has no `malloc_trim`, which
/// is a GNU extension. May take milliseconds on a large heap.
pub fn trim() -> bool {
    // Looked up at run time, so that the same code links with any C library.
    // SAFETY: the name is a C string.
    let symbol = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"malloc_trim".as_ptr()) };
    if symbol.is_null() {
        return false;
    }
    // SAFETY: a symbol of that name is the function of the manual page malloc_trim(3).
    let malloc_trim: extern "C" fn(usize) -> c_int = unsafe { std::mem::transmute(symbol) };
    malloc_trim(0);
    true
}

#[cfg(test)]
mod tests {
    #[cfg(target_env = "gnu")]
    #[test]
    fn the_gnu_library_can_trim() {
        assert!(super::trim());
    }
}
