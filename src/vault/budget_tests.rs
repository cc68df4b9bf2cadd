//! Tests of the budget, in paused time.

use super::*;
use crate::config::settings::Grace;
use crate::retry::jitter;

const SECOND: Duration = Duration::from_secs(1);

fn health(key_check_interval: Duration, probe_interval: Duration) -> Health {
    let (outage_grace, ready_timeout) = (Grace::Unlimited, SECOND * 30);
    Health { outage_grace, ready_timeout, key_check_interval, probe_interval, sealed_is_denied: false }
}

/// The budget at the default intervals.
fn budget_counted(metrics: Metrics) -> Budget {
    Budget::new("primary", &health(SECOND * 60, SECOND * 90), 1, 1, metrics)
}

fn budget() -> Budget {
    budget_counted(Metrics::default())
}

fn seconds(time: Duration) -> u64 {
    time.as_secs()
}

/// Admits requests of one purpose one after the other for `time`; how many.
async fn flood(budget: &Budget, purpose: Purpose, is_health: bool, time: Duration) -> u64 {
    let end = Instant::now() + time;
    let mut passed = 0;
    while Instant::now() < end {
        let deadline = Deadline::after(SECOND * 3).of(purpose);
        match budget.admit(is_health, "address", deadline).await {
            Ok(_) if Instant::now() <= end => passed += 1,
            Ok(_) => {}
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
    passed
}

#[tokio::test(start_paused = true)]
async fn in_any_time_at_most_the_burst_and_one_a_second_pass() {
    // Requests at random times, some ready to wait, some leaving a part of the bucket.
    for _ in 0..50 {
        let (start, mut bucket) = (Instant::now(), Bucket::new(BURST, INTERVAL));
        let (mut now, mut passes) = (start, Vec::new());
        for _ in 0..300 {
            now += SECOND.mul_f64(jitter() * [0.0, 0.1, 2.0, 9.0][(jitter() * 4.0) as usize]);
            let keep = (jitter() * 12.0) as u32;
            let max_wait = SECOND.mul_f64(jitter() * 3.0);
            if let Ok(wait) = bucket.take(now, if jitter() < 0.5 { 0 } else { keep }, max_wait) {
                assert!(wait <= max_wait);
                passes.push(now + wait);
            }
        }
        passes.sort_unstable();
        for (first, from) in passes.iter().enumerate() {
            for (last, to) in passes.iter().enumerate().skip(first) {
                let allowed = u64::from(BURST) + seconds(*to - *from);
                assert!((last - first + 1) as u64 <= allowed, "{} in {:?}", last - first + 1, *to - *from);
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_loop_of_the_background_is_slowed_down_and_does_not_fail() {
    let budget = budget();
    let passed = flood(&budget, Purpose::Background, false, SECOND * 60).await;
    assert_eq!(passed, 20 + 60);
}

#[tokio::test(start_paused = true)]
async fn calls_of_the_api_server_are_neither_counted_nor_delayed() {
    let budget = budget();
    let started = Instant::now();
    for _ in 0..1000 {
        let deadline = Deadline::after(SECOND).of(Purpose::ApiServer);
        budget.admit(false, "address", deadline).await.unwrap();
    }
    assert_eq!(Instant::now(), started);
    budget.admit(false, "address", Deadline::after(SECOND)).await.unwrap();
    assert_eq!(Instant::now(), started);
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_the_background_starves_no_login() {
    let budget = budget();
    let logins = async {
        tokio::time::sleep(SECOND * 10).await;
        for _ in 0..RESERVE {
            let deadline = Deadline::after(SECOND * 5).of(Purpose::Upkeep);
            let asked = Instant::now();
            budget.admit(false, "address", deadline).await.unwrap();
            assert_eq!(Instant::now(), asked, "it does not wait");
        }
        flood(&budget, Purpose::Upkeep, false, SECOND * 60).await
    };
    let (_, later) = tokio::join!(flood(&budget, Purpose::Background, false, SECOND * 70), logins);
    assert_eq!(later, 10, "ten a minute");
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_logins_starves_no_check() {
    let budget = budget();
    let checks = async {
        for _ in 0..30 {
            tokio::time::sleep(SECOND * 2).await;
            let asked = Instant::now();
            budget.admit(false, "address", Deadline::after(SECOND * 3)).await.unwrap();
            assert_eq!(Instant::now(), asked, "it does not wait");
        }
    };
    tokio::join!(flood(&budget, Purpose::Upkeep, false, SECOND * 60), checks);
}

#[tokio::test(start_paused = true)]
async fn prefetches_wait_and_leave_half_of_the_burst_to_the_checks() {
    let budget = budget();
    let checks = async {
        tokio::time::sleep(SECOND * 30).await;
        for _ in 0..KEPT {
            let asked = Instant::now();
            budget.admit(false, "address", Deadline::after(SECOND * 3)).await.unwrap();
            assert_eq!(Instant::now(), asked, "it does not wait");
        }
    };
    let (passed, ()) = tokio::join!(flood(&budget, Purpose::Prefetch, false, SECOND * 60), checks);
    assert!((50..=60).contains(&passed), "all but what the checks took: {passed}");
}

#[tokio::test(start_paused = true)]
async fn sys_health_has_a_bucket_of_its_own() {
    let budget = budget();
    assert_eq!(flood(&budget, Purpose::Background, true, SECOND * 30).await, 20 + 30);
    let asked = Instant::now();
    budget.admit(false, "address", Deadline::after(SECOND)).await.unwrap();
    assert_eq!(Instant::now(), asked);
}

#[tokio::test(start_paused = true)]
async fn many_at_once_fail_at_once_and_do_not_pile_up() {
    let budget = budget();
    let started = Instant::now();
    let all = (0..500).map(|_| budget.admit(false, "address", Deadline::after(SECOND * 60)));
    let admitted = futures_util::future::join_all(all).await;
    assert_eq!(admitted.iter().filter(|result| result.is_ok()).count(), 22, "two wait");
    assert!(started.elapsed() <= MAX_WAIT);
    let error = admitted.into_iter().find_map(Result::err).unwrap();
    assert_eq!(error.kind(), ErrorKind::HeldBack);
}

#[tokio::test(start_paused = true)]
async fn a_wait_leaves_half_of_the_deadline() {
    let budget = budget();
    for _ in 0..BURST {
        budget.admit(false, "address", Deadline::after(SECOND)).await.unwrap();
    }
    assert!(budget.admit(false, "address", Deadline::after(SECOND)).await.is_err());
    budget.admit(false, "address", Deadline::after(SECOND * 2)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_is_held_back_is_counted() {
    let metrics = Metrics::default();
    let budget = budget_counted(metrics.clone());
    let shown = |purpose: &str, count: u32| {
        let text = metrics.encode(&Default::default());
        let line = format!(
            "kms_plugin_requests_held_back_total{{service=\"primary\",purpose=\"{purpose}\"}} {count}\n"
        );
        assert!(text.contains(&line), "{text}");
    };
    shown("background", 0);
    let all = (0..30).map(|_| budget.admit(false, "address", Deadline::after(SECOND * 3)));
    futures_util::future::join_all(all).await;
    shown("background", 9);
    shown("health", 0);
}

#[tokio::test(start_paused = true)]
async fn short_intervals_in_the_configuration_raise_the_rate() {
    let health = health(SECOND / 5, SECOND * 3 / 10);
    let budget = Budget::new("primary", &health, 1, 1, Metrics::default());
    // Five reads and seven round trips a second are more than one request a second.
    let passed = flood(&budget, Purpose::Background, false, SECOND * 10).await;
    assert!((400..=420).contains(&passed), "{passed}");
}

#[tokio::test(start_paused = true)]
async fn a_wait_is_no_part_of_the_share_of_an_attempt_and_not_longer_than_the_call() {
    let budget = budget();
    flood(&budget, Purpose::Background, false, Duration::from_millis(1)).await;
    let (call, share) = (Deadline::after(SECOND * 3), SECOND / 2);
    let waited_for = budget.wait(Purpose::Background);
    assert!(waited_for > SECOND / 2 && budget.wait(Purpose::ApiServer).is_zero(), "{waited_for:?}");
    let began = Instant::now();
    let admitted = budget.admit(false, "address", call.share(share)).await.unwrap();
    assert_eq!((began.elapsed(), admitted.remaining()), (waited_for, share));
    tokio::time::advance(SECOND).await;
    let waited = budget.wait(Purpose::Background);
    assert!(waited < SECOND / 2, "{waited:?}");
    let admitted = budget.admit(false, "address", call.share(SECOND * 2)).await.unwrap();
    assert_eq!(admitted.instant(), call.instant());
}
