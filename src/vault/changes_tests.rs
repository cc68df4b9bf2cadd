//! Tests of `KeyService::changed`: it completes once for each change of the shown state. It does not complete when an
//! answer is the same as the one before. Changes of the token: see the tests of `session`.

use std::sync::Arc;

use futures_util::FutureExt as _;

use super::transport::Http;
use super::{Budget, TransitService};
use crate::config::endpoint::Endpoint;
use crate::config::secret::SecretSource;
use crate::config::vault::{Auth, Method, Vault};
use crate::key_service::{ErrorKind, KeyService as _, KeyServiceError};
use crate::telemetry::metrics::Metrics;

fn vault() -> Vault {
    let addresses =
        ["http://127.0.0.1:1", "http://127.0.0.1:2"].map(|text| Endpoint::parse(text, false).unwrap());
    let method = Method::Token(SecretSource::file("/nonexistent".as_ref(), false));
    Vault::example(addresses, Auth { mount: "approle".into(), method })
}

/// Whether something changed since the last call. A second call must find nothing.
#[track_caller]
fn changed(service: &TransitService) -> bool {
    let changed = service.changed().now_or_never().is_some();
    assert!(service.changed().now_or_never().is_none(), "a change is reported once");
    changed
}

#[tokio::test(start_paused = true)]
async fn a_change_of_an_address_is_reported_once() {
    let service =
        TransitService::new(&vault(), Metrics::default(), Arc::new(Http), Budget::unlimited()).unwrap();
    let beside = service.beside(&vault());
    let error = |text: &str| KeyServiceError::new(ErrorKind::Unreachable, text, "");
    let [first, _second] = service.client.addresses.as_slice() else { panic!("two addresses") };
    assert!(!changed(&service));
    first.answered();
    assert!(changed(&service) && service.addresses()[0].reachable == Some(true));
    assert!(changed(&beside), "it shares the addresses");
    first.answered();
    assert!(!changed(&service), "the same answer again");
    first.failed(&error("refused"));
    assert!(changed(&service));
    first.failed(&error("refused"));
    assert!(!changed(&service), "the same failure again");
    first.failed(&error("no answer"));
    assert!(changed(&service), "another reason");
    first.answered();
    first.failed(&error("refused"));
    assert!(changed(&service), "two changes together");
    service.client.set_preferred(0);
    assert!(!changed(&service));
    service.client.set_preferred(1);
    assert!(changed(&service) && service.addresses()[1].preferred);
}
