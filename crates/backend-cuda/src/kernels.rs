//! The kernel library's entry points as methods that enqueue on the device's stream. What their params point to is the
//! callers' business: they hold it. Knows no shapes.
#![allow(unsafe_code, reason = "calls into the kernel library")]

use core::ffi::CStr;
use std::sync::Arc;

use kernels_sys::{
    KernelLibrary, PW_OK, PwAddBias, PwApplyUpdates, PwDecodeAttention, PwEmbed, PwFillRandom, PwGatherRows,
    PwPrefillAttention, PwProduct, PwQuantisedEmbed, PwQuantisedExpand, PwQuantisedPack, PwQuantisedProduct, PwRmsNorm,
    PwRopeAppend, PwSample, PwSiluMul, PwStatus, PwStream, PwUnpack, PwWeightFormat,
};

use crate::CudaError;
use crate::driver::Device;

/// The library, and the stream that its kernels run on.
pub(crate) struct Kernels {
    library: &'static KernelLibrary,
    device: Arc<Device>,
}

impl core::fmt::Debug for Kernels {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Kernels").field("device", &self.device).finish_non_exhaustive()
    }
}

/// Methods that pass params on and turn the status into a result.
macro_rules! enqueue {
    ($($(#[$attribute:meta])* $method:ident = $entry:ident($params:ty);)*) => {
        $(
            $(#[$attribute])*
            #[doc = concat!("Enqueues `", stringify!($entry), "`.")]
            pub(crate) fn $method(&self, op: &$params) -> Result<(), CudaError> {
                // SAFETY: the params live through the call, and their pointers are into memory that the backend owns and
                // frees only when the stream has passed.
                let status = unsafe { self.library.$entry(op, self.stream()) };
                check(self.library, stringify!($entry), status)
            }
        )*
    };
}

impl Kernels {
    pub(crate) fn new(library: &'static KernelLibrary, device: Arc<Device>) -> Result<Self, CudaError> {
        // SAFETY: takes nothing; the device's context is current.
        check(library, "pw_check_device", unsafe { library.pw_check_device() })?;
        Ok(Self { library, device })
    }

    enqueue! {
        unpack = pw_unpack(PwUnpack);
        apply_updates = pw_apply_updates(PwApplyUpdates);
        embed = pw_embed(PwEmbed);
        rms_norm = pw_rms_norm(PwRmsNorm);
        silu_mul = pw_silu_mul(PwSiluMul);
        add_bias = pw_add_bias(PwAddBias);
        rope_append = pw_rope_append(PwRopeAppend);
        gather_rows = pw_gather_rows(PwGatherRows);
        fill_random = pw_fill_random(PwFillRandom);
        decode_attention = pw_decode_attention(PwDecodeAttention);
        prefill_attention = pw_prefill_attention(PwPrefillAttention);
        sample = pw_sample(PwSample);
        product = pw_product(PwProduct);
        quantised_pack = pw_quantised_pack(PwQuantisedPack);
        quantised_product = pw_quantised_product(PwQuantisedProduct);
        quantised_expand = pw_quantised_expand(PwQuantisedExpand);
        quantised_embed = pw_quantised_embed(PwQuantisedEmbed);
    }

    /// Bytes of a quantised weight on the device; `None` if there is no kernel for it.
    pub(crate) fn quantised_bytes(&self, format: PwWeightFormat, n: usize, k: usize) -> Option<usize> {
        // SAFETY: numbers only.
        let bytes = unsafe { self.library.pw_quantised_bytes(format, n as i32, k as i32) };
        usize::try_from(bytes).ok()
    }

    /// Bytes that sampling so many rows at a time needs.
    pub(crate) fn sample_scratch_bytes(&self, rows: usize, vocab_size: usize) -> usize {
        // SAFETY: numbers only.
        let bytes = unsafe { self.library.pw_sample_scratch_bytes(rows as i32, vocab_size as i32) };
        usize::try_from(bytes).expect("a size is not negative")
    }

    /// Most tokens of a prefill tile.
    pub(crate) fn prefill_tile_tokens(&self, num_heads: usize, num_kv_heads: usize, head_dim: usize) -> u32 {
        // SAFETY: numbers only.
        unsafe { self.library.pw_prefill_tile_tokens(num_heads as i32, num_kv_heads as i32, head_dim as i32) as u32 }
    }

    fn stream(&self) -> PwStream {
        self.device.stream().cast()
    }
}

fn check(library: &KernelLibrary, kernel: &'static str, status: PwStatus) -> Result<(), CudaError> {
    if status == PW_OK {
        return Ok(());
    }
    // SAFETY: takes a number; the name is a constant of the library, which is never unloaded.
    let reason = unsafe { CStr::from_ptr(library.pw_status_name(status)) };
    Err(CudaError::Kernel { kernel, reason: reason.to_string_lossy().into_owned() })
}
