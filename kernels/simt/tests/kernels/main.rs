//! The kernels on the CPU, each against plain loops. One binary holds them all, so that the kernels are linked once.

/// Launches a kernel as [`lumos_simt::launch!`] does, on arrays of the test.
macro_rules! launch {
    ($($arg:tt)*) => {
        // SAFETY: pointers are of arrays of the test that outlive the call and are as long as the kernel asks for.
        unsafe { lumos_simt::launch!($($arg)*) }
    };
}

mod attention;
mod average;
mod decoder;
mod decoder_attention;
mod decoder_choice;
mod decoder_linear;
mod elementwise;
mod embedding;
mod info_nce;
mod linear;
mod losses;
mod norm;
mod numbers;
mod optimiser;
mod packed;
mod rank;
mod reference;
mod selftest;
mod steps;
mod store;
