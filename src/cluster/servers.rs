//! The addresses of the API servers, as they publish them: the endpoints of the service `kubernetes`.

use serde::Deserialize;
use url::Url;

use super::connection::{Call, Connection, JSON};
use super::error::CallError;

const PATH: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices?labelSelector=kubernetes.io%2Fservice-name%3Dkubernetes";

#[derive(Deserialize)]
struct Slices {
    items: Vec<Slice>,
}

#[derive(Deserialize)]
struct Slice {
    #[serde(default)]
    endpoints: Vec<Endpoint>,
    #[serde(default)]
    ports: Vec<Port>,
}

#[derive(Deserialize)]
struct Endpoint {
    #[serde(default)]
    addresses: Vec<String>,
}

#[derive(Deserialize)]
struct Port {
    port: Option<u16>,
}

/// The address of each API server. Empty where they publish none.
///
/// # Errors
/// There is no good answer.
pub(crate) async fn addresses(connection: &Connection) -> Result<Vec<Url>, CallError> {
    let slices: Slices = connection.json(Call::get(PATH, JSON, 1024 * 1024)).await?;
    let mut found: Vec<Url> = slices.items.iter().flat_map(Slice::urls).collect();
    found.sort();
    found.dedup();
    Ok(found)
}

impl Slice {
    fn urls(&self) -> Vec<Url> {
        let port = self.ports.iter().find_map(|port| port.port).unwrap_or(6443);
        let addresses = self.endpoints.iter().flat_map(|endpoint| &endpoint.addresses);
        let url = |address: &String| {
            let host = if address.contains(':') { format!("[{address}]") } else { address.clone() };
            Url::parse(&format!("https://{host}:{port}")).ok()
        };
        addresses.filter_map(url).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_become_addresses() {
        let slice = r#"{"items":[{"addressType":"IPv4","endpoints":[{"addresses":["10.0.0.1"]},{"addresses":["10.0.0.2"]}],
            "ports":[{"name":"https","port":6443}]},{"endpoints":[{"addresses":["fd00::1"]}],"ports":[{"port":443}]}]}"#;
        let slices: Slices = serde_json::from_str(slice).unwrap();
        let urls: Vec<String> =
            slices.items.iter().flat_map(Slice::urls).map(|url| url.to_string()).collect();
        assert_eq!(urls, ["https://10.0.0.1:6443/", "https://10.0.0.2:6443/", "https://[fd00::1]/"]);
    }
}
