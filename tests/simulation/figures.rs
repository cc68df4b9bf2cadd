//! Figures of longer times: the requests of a day, and of an outage.

use std::time::Duration;

use tokio::time::sleep;

use super::model::effect::{Effect, Trouble};
use super::model::key::{Key, Version};
use super::model::service::{REPLICAS, Service, Truth, now};
use super::node::Setup;
use super::run::{Simulation, in_simulated_time};
use super::scenario::{at_most, check, hold, service, with_local_keks};

fn well(_: &mut Service) {}

/// At most 4,500 audited requests a node and day while well, 10,000 while refused.
#[test]
fn a_day_keeps_the_budget_of_audited_requests() {
    let no_right = Effect::RightsLost { encrypt: true, decrypt: true, read: true };
    let another = Effect::Replaced(Key::new(Version { created: 9, material: 99 }));
    let days = [
        ("day well", Setup::default(), None, 4_500),
        ("day well, local KEKs", with_local_keks(), None, 4_500),
        ("day refused", Setup::default(), Some(no_right.clone()), 10_000),
        ("day refused, local KEKs", with_local_keks(), Some(no_right), 10_000),
        ("day without the key", Setup::default(), Some(Effect::KeyDeleted), 10_000),
        ("day with another key", Setup::default(), Some(another.clone()), 10_000),
        ("day with another key, local KEKs", with_local_keks(), Some(another), 10_000),
    ];
    hold(days.map(|(name, setup, effect, most)| {
        check(name, setup, well, async |simulation: &mut Simulation| {
            simulation.settle().await?;
            if let Some(effect) = effect {
                simulation.begin(effect);
            }
            // The requests of the agent alone: those for calls of the API server come on top.
            simulation.nodes[0].stop_api_server();
            let since = now();
            // An eighth of a day: eight times as much is a day.
            sleep(Duration::from_secs(86_400 / 8)).await;
            at_most("audited requests in a day", simulation.requests(since).1 * 8, most)
        })
    }));
}

/// A whole outage stays within the budget of background requests.
#[test]
fn an_outage_keeps_the_budget() {
    let path = |trouble| Effect::Path { node: None, replica: None, trouble };
    let outages = [
        ("outage budget, hang", path(Trouble::Hang)),
        ("outage budget, kill", path(Trouble::Reset)),
        ("outage budget, proxy", path(Trouble::Page(503))),
        ("outage budget, seal", Effect::Sealed(None)),
        ("outage budget, 500", Effect::Broken),
        ("outage budget, DR", Effect::Disaster(None)),
        ("outage budget, 429", Effect::Throttled(Some(1))),
    ];
    hold(outages.map(|(name, effect)| {
        check(name, Setup::default(), well, async |simulation: &mut Simulation| {
            simulation.settle().await?;
            simulation.begin(effect);
            // The requests of the agent alone.
            simulation.nodes[0].stop_api_server();
            let since = now();
            sleep(Duration::from_secs(600)).await;
            let (all, health) = (simulation.requests(since).0, simulation.health_requests(since));
            // One a second, 20 at once, and ten a minute.
            at_most("requests in ten minutes", all - health, 600 + 20 + 110)?;
            at_most("requests for the health of an address", health / REPLICAS, 600 + 20)
        })
    }));
}

/// The model itself: without effects, a client without memory can use it.
#[test]
fn the_model_is_well_without_effects() {
    in_simulated_time(1, async {
        assert_eq!(service().truth(0, "secret-0"), Truth::Works);
        assert_eq!(service().truth(0, "another"), Truth::Refuses);
    });
}
