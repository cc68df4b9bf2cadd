//! The key services, one after the other: the way to each, the login, the key. The one that wraps is the first.

use super::agent::AgentView;
use super::credentials::{self, Readable};
use super::finding::{Check, Finding};
use super::key::{KeyCheck, Learnt};
use super::refusals::Refusals;
use super::report::Report;
use super::service_user::ServiceUser;
use super::unit::Units;
use super::{login, network};
use crate::cli::check::{CheckArgs, PRIMARY};
use crate::clock::Deadline;
use crate::config::Settings;
use crate::config::settings::KeyServiceSettings;
use crate::config::vault::Vault;
use crate::key_service::KeyService as _;
use crate::vault::Inspector;

/// The checks of every key service, the one that wraps first.
pub(crate) struct KeyServices<'a> {
    pub args: &'a CheckArgs,
    pub units: &'a Units,
    pub agent: &'a AgentView,
    pub report: &'a mut Report,
}

impl KeyServices<'_> {
    /// What was learnt of the key that wraps.
    pub(crate) async fn check(&mut self, settings: &Settings, mut refusals: Refusals) -> Learnt {
        let user = ServiceUser::of(self.units);
        let mut learnt = Learnt::default();
        let mut first: Option<(Inspector, bool)> = None;
        let all = std::iter::once((PRIMARY, &settings.primary))
            .chain(settings.decrypt_only.iter().map(|(name, service)| (name.as_str(), service)));
        for (name, service) in all {
            let KeyServiceSettings::Vault(vault) = service else { continue };
            let mut vault = vault.as_ref().clone();
            let passed = credentials::from_outside(&mut vault, self.units);
            // A key beside the first one is reached by the same way and the same token.
            let shared = first.as_ref().filter(|_| vault.shares_login);
            let shared = shared.map(|(inspector, usable)| (inspector.beside(&vault), *usable));
            let (inspector, usable) = match shared {
                Some(shared) => shared,
                None => {
                    let readable = credentials::check(&vault, &user, passed, self.report);
                    let Some(inspector) = self.inspector(name, &vault) else { continue };
                    let reached = network::check(&vault, &inspector, self.args.timeout, self.report).await;
                    let usable =
                        self.log_in(name, &vault, &inspector, (readable, reached), &mut refusals).await;
                    (inspector, usable)
                }
            };
            let found = self.key(name, &vault, &inspector, usable).await;
            if name == PRIMARY {
                learnt = found;
                first = Some((inspector, usable));
            } else if !vault.shares_login {
                inspector.revoke_login(Deadline::after(self.args.timeout)).await;
            }
        }
        if let Some((inspector, _)) = first {
            inspector.revoke_login(Deadline::after(self.args.timeout)).await;
        }
        learnt
    }

    fn inspector(&mut self, name: &str, vault: &Vault) -> Option<Inspector> {
        Inspector::new(vault)
            .map_err(|error| {
                self.report.add(Finding::fail(
                    Check::Tls,
                    name,
                    error.to_string(),
                    "without TLS no server is reached",
                    "check vault.ca_file, vault.client_cert_file and vault.client_key_file",
                ));
            })
            .ok()
    }

    /// Whether there is a token to go on with.
    async fn log_in(
        &mut self,
        name: &str,
        vault: &Vault,
        inspector: &Inspector,
        (readable, reached): (Readable, bool),
        refusals: &mut Refusals,
    ) -> bool {
        let because = match () {
            () if self.args.no_login => "--no-login",
            () if readable == Readable::No => "a file that it needs cannot be used",
            () if readable == Readable::Hidden => "only the running service sees its credential",
            () if !reached => "no address can be used",
            () => {
                let time = self.args.timeout;
                return login::check(name, vault, inspector, self.agent, refusals, time, self.report).await;
            }
        };
        self.report.add(Finding::skipped(Check::Login, login::subject(name, vault), because));
        false
    }

    async fn key(&mut self, name: &str, vault: &Vault, inspector: &Inspector, usable: bool) -> Learnt {
        let time = self.args.timeout;
        if !usable {
            let path = format!("{}/keys/{}", vault.transit.mount, vault.transit.key);
            self.report.add(Finding::skipped(Check::Key, path, "without a login nothing can be asked"));
            return Learnt::default();
        }
        let often = login::token(name, vault, inspector, time, self.report).await;
        let other =
            self.agent.scope().filter(|scope| name == PRIMARY && scope != inspector.key_service().scope());
        KeyCheck::new(vault, inspector, name == PRIMARY, other, time).run(often, self.report).await
    }
}
