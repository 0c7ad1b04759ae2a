//! Kernels for x86-64.

pub mod amx;
pub mod avx2;
pub mod avx512;
