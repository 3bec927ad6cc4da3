//! The `lumos` program.

fn main() -> std::process::ExitCode {
    lumos::cli::main()
}
