#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lumos::views::fuzz::answers(bytes));
