//! Views: what every generator promises, and each of them; the store; endpoints and local models.

#[path = "../common/cli.rs"]
mod cli;
#[cfg(all(feature = "endpoint", feature = "llm"))]
#[path = "../common/encoder.rs"]
mod encoder;
#[cfg(feature = "endpoint")]
#[path = "../common/endpoint.rs"]
mod endpoint;
#[path = "../common/real.rs"]
mod outside;

#[cfg(all(feature = "endpoint", feature = "llm"))]
mod embed;
mod generators;
#[cfg(feature = "endpoint")]
mod injected;
mod llm;
mod real;
mod registered;
#[cfg(feature = "endpoint")]
mod served;
mod store;
