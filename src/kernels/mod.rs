//! fp32 kernels for training on a CPU. They replace operations for which torch's functions pass over memory more often than necessary.
//!
//! The kernels need AVX-512. On other processors Python computes the same results with torch. Tests compare each kernel with torch
//! (`test_target_loss.py`, `test_fused_ops.py`) and with its definition computed in f64.

pub mod attention;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod shared_output;
pub mod softmax;
pub mod swiglu;

/// fp32 lanes of a 512-bit register.
const LANES: usize = 16;

/// Whether this processor supports AVX-512F, which all kernels need.
pub fn usable() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("avx512f");
    #[cfg(not(target_arch = "x86_64"))]
    return false;
}
