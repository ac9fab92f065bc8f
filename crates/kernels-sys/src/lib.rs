//! Raw declarations of the CUDA kernels' C ABI, and the loader of the kernel library.
//!
//! The declarations are generated from `kernels/include/pagewise.h` by `cargo xtask codegen` and committed; shapes and
//! meanings are in the comments there and here. The library is made by `cargo xtask kernels build` and looked up at run
//! time, so that neither building nor starting Pagewise needs CUDA. Knows nothing safe: that is `backend-cuda`'s part.
//!
//! ```no_run
//! use kernels_sys::{KernelLibrary, PW_ABI_VERSION};
//!
//! # fn example() -> Result<(), kernels_sys::LoadError> {
//! let kernels = KernelLibrary::load(&kernels_sys::find()?)?;
//! // SAFETY: Takes nothing and touches nothing.
//! assert_eq!(unsafe { kernels.pw_abi_version() }, PW_ABI_VERSION);
//! # Ok(())
//! # }
//! ```
#![allow(unsafe_code)]

mod load;
mod search;

pub use self::generated::*;
pub use self::load::LoadError;
pub use self::search::{FILE_NAME, VARIABLE, find};

/// Comments of the headers are no Markdown, and what they leave unsaid is said by a name.
#[allow(missing_docs, non_camel_case_types, unused_qualifications, rustdoc::all, clippy::all)]
#[allow(clippy::undocumented_unsafe_blocks, clippy::too_many_lines, clippy::semicolon_if_nothing_returned)]
mod generated {
    include!("generated/kernels.rs");
}
