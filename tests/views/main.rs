//! Views: what every generator promises, and each of them; the store; endpoints and local models.

#[path = "../common/cli.rs"]
mod cli;
#[cfg(feature = "llm")]
#[path = "../common/encoder.rs"]
mod encoder;
#[path = "../common/endpoint.rs"]
mod endpoint;
#[path = "../common/real.rs"]
mod outside;

#[cfg(feature = "llm")]
mod embed;
mod generators;
mod llm;
mod real;
mod registered;
mod served;
mod store;
