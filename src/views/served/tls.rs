//! Who may vouch for an `https` endpoint.

use std::path::Path;

use ureq::config::ConfigBuilder;
use ureq::typestate::AgentScope;

use crate::{Error, Result};

/// `config` for an endpoint that is `secure` (https) or not, vouched for by those in `ca_file`, else by those that Mozilla trusts.
///
/// # Errors
/// Where this build has no TLS, the file holds no certificate, or a file is named for an endpoint without TLS.
pub(super) fn with(config: ConfigBuilder<AgentScope>, secure: bool, ca_file: Option<&Path>) -> Result<ConfigBuilder<AgentScope>> {
    let ca_file = ca_file.filter(|path| !path.as_os_str().is_empty());
    match (secure, ca_file) {
        (true, _) if !cfg!(feature = "https") => {
            Err(Error::setting("views.served.url", "this build speaks no TLS; build with `--features https`"))
        }
        (true, Some(path)) => trusting(config, path),
        (false, Some(_)) => {
            Err(Error::setting("views.served.ca_file", "is set, but views.served.url is http, which checks no certificate; use https"))
        }
        (_, None) => Ok(config),
    }
}

/// `config` that trusts the certificates in `path` and no others: one endpoint has one authority.
#[cfg(feature = "https")]
fn trusting(config: ConfigBuilder<AgentScope>, path: &Path) -> Result<ConfigBuilder<AgentScope>> {
    use ureq::tls::{Certificate, PemItem, TlsConfig, parse_pem};
    let text = std::fs::read(path).map_err(Error::io(path, "read"))?;
    let mut certificates: Vec<Certificate<'static>> = Vec::new();
    for item in parse_pem(&text) {
        match item {
            Ok(PemItem::Certificate(certificate)) => certificates.push(certificate),
            Ok(_) => (),
            Err(e) => return Err(Error::mismatch(path, format!("is no PEM file ({e}); wanted `-----BEGIN CERTIFICATE-----` blocks"))),
        }
    }
    // What rustls cannot read it leaves out without a word; then nothing would be trusted, and the file not be suspected.
    let (read, _) = rustls::RootCertStore::empty()
        .add_parsable_certificates(certificates.iter().map(|c| rustls::pki_types::CertificateDer::from(c.der())));
    if read == 0 {
        return Err(Error::mismatch(path, "holds no certificate; wanted an authority's as PEM, `-----BEGIN CERTIFICATE-----` blocks"));
    }
    Ok(config.tls_config(TlsConfig::builder().root_certs(certificates.into()).build()))
}

#[cfg(not(feature = "https"))]
fn trusting(config: ConfigBuilder<AgentScope>, _: &Path) -> Result<ConfigBuilder<AgentScope>> {
    Ok(config)
}

/// What to do where `error` says that the endpoint's certificate is not trusted; no repetition would help.
#[cfg(feature = "https")]
pub(super) fn distrust(error: &ureq::Error) -> Option<String> {
    let cause = match error {
        ureq::Error::Rustls(cause) => cause,
        ureq::Error::Io(e) => e.get_ref()?.downcast_ref::<rustls::Error>()?,
        _ => return None,
    };
    matches!(cause, rustls::Error::InvalidCertificate(_)).then(|| {
        format!(
            "the endpoint's certificate is not trusted ({cause}); name a file with the certificate (PEM) of the authority that signed it"
        )
    })
}

#[cfg(not(feature = "https"))]
pub(super) fn distrust(_: &ureq::Error) -> Option<String> {
    None
}
