//! See [`mcd_fuzz::parser`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mcd_fuzz::parser::check(data));
