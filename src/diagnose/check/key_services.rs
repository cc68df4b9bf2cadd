//! The key services, one after the other: the network, the login, the key. The first is the one that wraps.

use super::agent::AgentView;
use super::credentials::{self, Readable};
use super::finding::{Check, Finding};
use super::key::{KeyCheck, KeyFacts};
use super::login::Access;
use super::refusals::Refusals;
use super::report::Report;
use super::service_user::ServiceUser;
use super::{CheckOptions, borrowed, login, network, spiffe};
use crate::clock::Deadline;
use crate::config::Settings;
use crate::config::settings::KeyServiceSettings;
use crate::config::vault::Vault;
use crate::diagnose::PRIMARY;
use crate::key_service::KeyService as _;
use crate::systemd::units::Units;
use crate::vault::Inspector;

/// What the checks of the key services need.
pub(crate) struct KeyServices<'a, 'r> {
    pub options: &'a CheckOptions,
    pub units: &'a Units,
    pub agent: &'a AgentView,
    pub report: &'a mut Report<'r>,
}

impl KeyServices<'_, '_> {
    /// Checks every key service. Returns what is known about the key that wraps.
    pub(crate) async fn check(&mut self, settings: &Settings, mut refusals: Refusals) -> KeyFacts {
        let user = ServiceUser::of(self.units);
        let mut facts = KeyFacts::default();
        let mut first: Option<(Inspector, Access)> = None;
        let all = std::iter::once((PRIMARY, &settings.primary))
            .chain(settings.decrypt_only.iter().map(|(name, service)| (name.as_str(), service)));
        for (name, service) in all {
            let KeyServiceSettings::Vault(vault) = service else { continue };
            let mut vault = vault.as_ref().clone();
            let by_systemd = credentials::read_from_outside(&mut vault, self.units);
            // A key that shares the login of the first uses the same connection and token.
            let shared = first.as_ref().filter(|_| vault.shares_login);
            let shared = shared.map(|(inspector, usable)| (inspector.beside(&vault), *usable));
            let (inspector, usable) = match shared {
                Some(shared) => shared,
                None => {
                    let readable = credentials::check(&vault, &user, &by_systemd, self.report)
                        .max(spiffe::check(&vault, self.options.timeout, self.report).await);
                    let Some(inspector) = self.inspector(name, &vault) else { continue };
                    let reached = network::check(&vault, &inspector, self.options.timeout, self.report).await;
                    let usable =
                        self.log_in(name, &vault, &inspector, (readable, reached), &mut refusals).await;
                    (inspector, usable)
                }
            };
            let found = self.key(name, &vault, &inspector, usable).await;
            if name == PRIMARY {
                facts = found;
                first = Some((inspector, usable));
            } else if !vault.shares_login {
                inspector.revoke_login(Deadline::after(self.options.timeout)).await;
            }
        }
        if let Some((inspector, _)) = first {
            inspector.revoke_login(Deadline::after(self.options.timeout)).await;
        }
        facts
    }

    fn inspector(&mut self, name: &str, vault: &Vault) -> Option<Inspector> {
        Inspector::new(vault)
            .map_err(|error| {
                self.report.add(Finding::fail(
                    Check::Tls,
                    name,
                    error.message().to_owned(),
                    "without TLS the agent can connect to no server",
                    error
                        .remedy()
                        .unwrap_or("check vault.ca_file, vault.client_cert_file and vault.client_key_file")
                        .to_owned(),
                ));
            })
            .ok()
    }

    /// Logs in, or finds another way to see the key.
    async fn log_in(
        &mut self,
        name: &str,
        vault: &Vault,
        inspector: &Inspector,
        (readable, reached): (Readable, bool),
        refusals: &mut Refusals,
    ) -> Access {
        let because = match () {
            () if self.options.no_login => "--no-login",
            () if readable == Readable::No => "a file for it cannot be used",
            () if readable == Readable::Hidden => "only the running service can read its credential",
            () if !reached => "no address can be used",
            () => {
                let time = self.options.timeout;
                let agent = (self.agent, self.options.login);
                return login::check(name, vault, inspector, agent, refusals, time, self.report).await;
            }
        };
        self.report.add(Finding::skipped(Check::Login, login::subject(name, vault), because));
        Access::None
    }

    async fn key(&mut self, name: &str, vault: &Vault, inspector: &Inspector, usable: Access) -> KeyFacts {
        let time = self.options.timeout;
        let path = format!("{}/keys/{}", vault.transit.mount, vault.transit.key);
        if usable == Access::Agent {
            return borrowed::check(name, vault, inspector.key_service().scope(), self.agent, self.report);
        }
        if usable == Access::None {
            self.report.add(Finding::skipped(Check::Key, path, "needs a login"));
            return KeyFacts::default();
        }
        if login::few_uses(name, vault, inspector, self.report) {
            self.report.add(Finding::skipped(Check::Key, path, "its token allows too few requests"));
            return KeyFacts::default();
        }
        let Some(often) = login::token(name, vault, inspector, time, self.report).await else {
            self.report.add(Finding::skipped(Check::Key, path, "the token cannot be used"));
            return KeyFacts::default();
        };
        let other =
            self.agent.scope().filter(|scope| name == PRIMARY && scope != inspector.key_service().scope());
        KeyCheck::new(vault, inspector, name == PRIMARY, other, time).run(often, self.report).await
    }
}
