//! An endpoint behind TLS.

use lumos::Error;
use lumos::config::{ServedSettings, ViewSettings};
use lumos::views;

use super::{dataset, settings};

/// What a build over `url` that trusts `ca_file` is refused for: the setting and why.
fn refusal(url: &str, ca_file: Option<&std::path::Path>) -> (String, String) {
    let served = ServedSettings { ca_file: ca_file.map(Into::into), ..settings(url).served };
    match views::build(&dataset(9), &ViewSettings { served, ..settings(url) }, 1, &|_, _| ()) {
        Err(Error::Setting { key, message }) => (key, message),
        Err(other) => (String::new(), other.to_string()),
        Ok(_) => panic!("a build over {url}"),
    }
}

#[test]
fn an_authority_is_refused_where_no_certificate_is_checked() {
    let (key, message) = refusal("http://127.0.0.1:9/v1", Some("ca.pem".as_ref()));
    assert!(key == "views.served.ca_file" && message.contains("https"), "{key}: {message}");
}

#[cfg(not(feature = "https"))]
#[test]
fn a_build_without_tls_says_how_to_get_it() {
    let (key, message) = refusal("https://127.0.0.1:9/v1", None);
    assert!(key == "views.served.url" && message.contains("--features https"), "{key}: {message}");
}

#[cfg(feature = "https")]
mod with_tls {
    use std::net::TcpStream;
    use std::path::{Path, PathBuf};
    use std::process::Command;
    use std::sync::Arc;

    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use rustls::{ServerConfig, ServerConnection, StreamOwned};

    use super::*;
    use crate::endpoint::{Endpoint, Line, Reply, model};
    use crate::served::{sane, titles};

    fn openssl(folder: &Path, words: &str) {
        let out = Command::new("openssl").args(words.split(' ')).current_dir(folder).output();
        let out = out.expect("this test makes its certificates with the command `openssl`; install it");
        assert!(out.status.success(), "openssl {words}: {}", String::from_utf8_lossy(&out.stderr));
    }

    /// An authority `NAME.pem` and its key.
    fn authority(folder: &Path, name: &str) -> PathBuf {
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
        openssl(folder, &format!("req -x509 {key} -days 2 -subj /CN=lumos-{name} -keyout {name}.key -out {name}.pem"));
        folder.join(format!("{name}.pem"))
    }

    /// An endpoint whose certificate for `name` the authority `own` in `folder` has signed.
    fn endpoint(folder: &Path, name: &str) -> Endpoint {
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
        openssl(folder, &format!("req -new {key} -subj /CN=lumos-endpoint -keyout leaf.key -out leaf.csr"));
        std::fs::write(folder.join("leaf.ext"), format!("subjectAltName={name}\n")).unwrap();
        openssl(folder, "x509 -req -in leaf.csr -CA own.pem -CAkey own.key -CAcreateserial -days 2 -extfile leaf.ext -out leaf.pem");
        let certificates: Vec<_> = CertificateDer::pem_file_iter(folder.join("leaf.pem")).unwrap().collect::<Result<_, _>>().unwrap();
        let key = PrivateKeyDer::from_pem_file(folder.join("leaf.key")).unwrap();
        let config = Arc::new(ServerConfig::builder().with_no_client_auth().with_single_cert(certificates, key).unwrap());
        let wrap = move |stream: TcpStream| -> Box<dyn Line> {
            Box::new(StreamOwned::new(ServerConnection::new(Arc::clone(&config)).unwrap(), stream))
        };
        let answers = model(titles());
        Endpoint::over("https", wrap, move |asked| Reply::Says(answers(asked)))
    }

    #[test]
    fn a_private_authority_is_trusted_where_it_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let own = authority(folder.path(), "own");
        let secure = endpoint(folder.path(), "IP:127.0.0.1");
        let (data, plain) = (dataset(9), sane());
        let served = ServedSettings { ca_file: Some(own.clone()), ..settings(&secure.url).served };
        let made = views::build(&data, &ViewSettings { served, ..settings(&secure.url) }, 1, &|_, _| ()).unwrap();
        assert_eq!(made, views::build(&data, &settings(&plain.url), 1, &|_, _| ()).unwrap());
        let asked = secure.asked().len();
        assert_eq!(asked, plain.asked().len());

        // Without it, or with somebody else's, nothing is sent.
        let other = authority(folder.path(), "other");
        for (ca, why) in [(None, "UnknownIssuer"), (Some(other.as_path()), "UnknownIssuer")] {
            let (key, message) = refusal(&secure.url, ca);
            assert!(key == "views.served.ca_file" && message.contains(why) && message.contains("PEM"), "{key}: {message}");
        }
        assert_eq!(secure.asked().len(), asked);

        // A certificate for another name.
        let misnamed = endpoint(folder.path(), "DNS:elsewhere.example");
        let (key, message) = refusal(&misnamed.url, Some(&own));
        assert!(key == "views.served.ca_file" && message.contains("elsewhere.example"), "{key}: {message}");
        assert!(misnamed.asked().is_empty());
    }

    #[test]
    fn a_file_without_a_certificate_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        authority(folder.path(), "own");
        let file = folder.path().join("bad.pem");
        let url = "https://127.0.0.1:9/v1";
        let key = std::fs::read(folder.path().join("own.key")).unwrap();
        let garbage = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_vec();
        let broken = b"-----BEGIN CERTIFICATE-----\n%%%\n-----END CERTIFICATE-----\n".to_vec();
        for content in [Vec::new(), b"no certificate".to_vec(), key, garbage, broken] {
            std::fs::write(&file, content).unwrap();
            let (_, message) = refusal(url, Some(&file));
            assert!(message.contains("bad.pem") && message.contains("BEGIN CERTIFICATE"), "{message}");
        }
        let (_, message) = refusal(url, Some("none.pem".as_ref()));
        assert!(message.contains("none.pem") && message.contains("check the path"), "{message}");
    }
}
