//! AVX2 and BMI2: placeholder until written.
use crate::arch::TileKernel;
pub struct Avx2;
impl Avx2 {
    pub fn new() -> Option<&'static dyn TileKernel> {
        None
    }
}
