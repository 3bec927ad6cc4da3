#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lumos::run::import::fuzz::weights(bytes));
