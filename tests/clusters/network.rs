//! The network of a cluster: a bridge, and behind it a network namespace for each member. The tests, the agents and the
//! load balancer are at the bridge itself.
//!
//! Nobody asks by ARP: each one is told the hardware address of each other one. So a packet to a member that is cut off
//! is lost, and no kernel answers "no route to host"; and to lose one direction alone, the sender is told a hardware
//! address that nobody has.

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU8, Ordering};

/// The members of a cluster.
pub const MEMBERS: usize = 3;
/// The last part of the address of the tests, the agents and the load balancer.
const OUTSIDE: usize = 254;
/// A hardware address that nobody has.
const NOBODY: &str = "02:00:00:4d:ff:ff";

/// How many networks have been made: each has another number.
static MADE: AtomicU8 = AtomicU8::new(0);

/// Which packets between a member and the others are lost. Those outside reach all members, and are reached.
#[derive(Clone, Copy, Debug)]
pub enum Lost {
    All,
    FromIt,
    ToIt,
}

/// A network. The members are counted from 0.
pub struct Network {
    number: u8,
}

impl Network {
    pub fn new() -> Self {
        // `ip link add` in the machine's own network would be a change of that machine.
        assert!(
            std::env::var_os("KMS_CLUSTERS_NAMESPACE").is_some(),
            "these tests need a network of their own, which tests/clusters/run makes"
        );
        let network = Self { number: MADE.fetch_add(1, Ordering::Relaxed) };
        let bridge = network.bridge();
        ip(&["link", "add", &bridge, "address", &network.hardware(OUTSIDE), "type", "bridge"]);
        ip(&["address", "add", &format!("{}/24", network.outside()), "dev", &bridge]);
        ip(&["link", "set", &bridge, "up"]);
        for member in 0..MEMBERS {
            network.add(member);
        }
        network
    }

    fn add(&self, member: usize) {
        let (namespace, port) = (self.namespace_name(member), self.port(member));
        ip(&["netns", "add", &namespace]);
        ip(&["link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &namespace]);
        ip(&["link", "set", &port, "master", &self.bridge(), "up"]);
        let inside = |arguments: &[&str]| ip(&[&["-n", &namespace], arguments].concat());
        inside(&["link", "set", "lo", "up"]);
        inside(&["link", "set", "eth0", "address", &self.hardware(member + 1), "up"]);
        inside(&["address", "add", &format!("{}/24", self.address(member)), "dev", "eth0"]);
        self.tell(None, member, &self.hardware(member + 1));
        for other in (0..MEMBERS).filter(|other| *other != member) {
            self.tell(Some(member), other, &self.hardware(other + 1));
        }
        let outside = self.hardware(OUTSIDE);
        inside(&["neigh", "replace", &self.outside(), "lladdr", &outside, "nud", "permanent", "dev", "eth0"]);
    }

    /// The address of a member.
    pub fn address(&self, member: usize) -> String {
        self.host(member + 1)
    }

    /// The address of the tests, the agents and the load balancer.
    pub fn outside(&self) -> String {
        self.host(OUTSIDE)
    }

    /// The namespace of a member, as nsenter(1) takes it.
    pub fn namespace(&self, member: usize) -> PathBuf {
        PathBuf::from("/run/netns").join(self.namespace_name(member))
    }

    /// Loses all packets to and from this member.
    pub fn cut(&self, member: usize) {
        ip(&["link", "set", &self.port(member), "down"]);
    }

    /// Ends [`Self::cut`].
    pub fn mend(&self, member: usize) {
        ip(&["link", "set", &self.port(member), "up"]);
    }

    /// Loses packets between this member and the others.
    pub fn part(&self, member: usize, lost: Lost) {
        for other in (0..MEMBERS).filter(|other| *other != member) {
            if matches!(lost, Lost::All | Lost::FromIt) {
                self.tell(Some(member), other, NOBODY);
            }
            if matches!(lost, Lost::All | Lost::ToIt) {
                self.tell(Some(other), member, NOBODY);
            }
        }
    }

    /// Ends [`Self::part`].
    pub fn join(&self, member: usize) {
        for other in (0..MEMBERS).filter(|other| *other != member) {
            self.tell(Some(member), other, &self.hardware(other + 1));
            self.tell(Some(other), member, &self.hardware(member + 1));
        }
    }

    /// Tells a member, or those outside, a member's hardware address.
    fn tell(&self, told: Option<usize>, member: usize, hardware: &str) {
        let (bridge, namespace) = (self.bridge(), told.map(|told| self.namespace_name(told)));
        let (place, device) = match &namespace {
            Some(namespace) => (vec!["-n", namespace], "eth0"),
            None => (vec![], bridge.as_str()),
        };
        let address = self.address(member);
        let entry = ["neigh", "replace", &address, "lladdr", hardware, "nud", "permanent", "dev", device];
        ip(&[&place, &entry[..]].concat());
    }

    fn host(&self, part: usize) -> String {
        format!("10.77.{}.{part}", self.number)
    }

    fn hardware(&self, part: usize) -> String {
        format!("02:00:00:4d:{:02x}:{part:02x}", self.number)
    }

    fn bridge(&self) -> String {
        format!("cluster{}", self.number)
    }

    fn port(&self, member: usize) -> String {
        format!("member{}-{}", self.number, member + 1)
    }

    fn namespace_name(&self, member: usize) -> String {
        self.port(member)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for member in 0..MEMBERS {
            let _gone = Command::new("ip").args(["netns", "delete", &self.namespace_name(member)]).status();
        }
        let _gone = Command::new("ip").args(["link", "delete", &self.bridge()]).status();
    }
}

fn ip(arguments: &[&str]) {
    let done = Command::new("ip").args(arguments).output().unwrap();
    assert!(done.status.success(), "ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&done.stderr));
}
