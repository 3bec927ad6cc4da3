#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lumos_fuzz::doors::wire_update(bytes));
