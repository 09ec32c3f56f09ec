//! What training on a CPU computes itself, in fp32: where torch's own functions pass over memory more often than there is to compute.
//!
//! Written for AVX-512; elsewhere Python computes the same with torch. Each is compared with torch (`test_target_loss.py`, `test_fused_ops.py`)
//! and with the textbook.

pub mod attention;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub mod softmax;
pub mod swiglu;

/// Numbers in a register.
const LANES: usize = 16;

/// Whether this processor has what the kernels are written for.
pub fn usable() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("avx512f");
    #[cfg(not(target_arch = "x86_64"))]
    return false;
}
