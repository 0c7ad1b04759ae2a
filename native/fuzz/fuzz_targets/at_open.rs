//! See [`mcd_fuzz::at_open`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mcd_fuzz::at_open::check(data));
