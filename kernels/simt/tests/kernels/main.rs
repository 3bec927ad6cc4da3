//! The kernels on the CPU, each against plain loops. One binary holds them all, so that the kernels are linked once.

#[macro_use]
mod steps;
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
mod selftest;
