//! See [`mcd_fuzz::nodes`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mcd_fuzz::nodes::check(data));
