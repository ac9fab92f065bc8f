//! The allocator's memory beside what is in use. Knows one call of glibc.
#![allow(unsafe_code)]

/// Gives back to the system what loading took and has freed, which the allocator would keep: some ten megabytes.
pub(crate) fn give_back_freed() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: it touches nothing but memory that the allocator holds as free, under its own locks.
    unsafe {
        libc::malloc_trim(0);
    }
}
