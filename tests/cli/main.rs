//! The real binary: its commands, what it refuses, what it writes; configurations and the build script.

#[path = "../common/real.rs"]
mod real;
#[path = "../common/cli.rs"]
mod sandbox;
#[path = "../common/torch.rs"]
mod torch;

mod around;
mod attacks;
mod bench;
mod build_commit;
mod citation;
mod config_files;
mod dockerfile;
mod documented;
mod documented_runs;
mod evaluation;
mod examples;
mod export;
#[cfg(feature = "endpoint")]
mod fetch;
#[cfg(feature = "llm")]
mod generate;
mod hostile;
mod import;
mod layers;
mod method_file;
mod parquet;
mod plot;
mod privacy;
mod progress;
mod ranking;
mod report_keys;
mod report_page;
mod reproduce;
mod runs;
mod settings;
mod settings_page;
mod several;
mod shell;
mod skipped;
mod tensorboard;
mod watch;
mod webdriver;
