//! Lists that the kernel holds and, where these tests run as root, the kernel's own verdicts.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use rustix::fs::XattrFlags;
use rustix::io::Errno;

use super::*;

/// A user, and a group that it is in. They need not exist.
const USER: u32 = 65_534;
const GROUP: u32 = 65_533;
/// Others.
const STRANGER: u32 = 65_000;

/// A line in the log of the tests, so that what was left out is seen.
#[allow(clippy::print_stderr)] // a test has no other place
pub(crate) fn not_tested(what: &str) {
    eprintln!("NOT TESTED: {what}");
}

/// Gives the file a list, as setfacl(1) does; false where its file system has none.
fn set(path: &Path, list: &[(Tag, u32)]) -> bool {
    let mut value = VERSION.to_le_bytes().to_vec();
    for (tag, bits) in list {
        let (tag, id) = match *tag {
            Tag::Owner => (0x01_u16, u32::MAX),
            Tag::User(id) => (0x02, id),
            Tag::OwnerGroup => (0x04, u32::MAX),
            Tag::Group(id) => (0x08, id),
            Tag::Mask => (0x10, u32::MAX),
            Tag::Other => (0x20, u32::MAX),
        };
        value.extend(tag.to_le_bytes());
        value.extend(u16::try_from(*bits).unwrap().to_le_bytes());
        value.extend(id.to_le_bytes());
    }
    match rustix::fs::setxattr(path, ATTRIBUTE, &value, XattrFlags::empty()) {
        Ok(()) => true,
        Err(Errno::OPNOTSUPP) => {
            not_tested(&format!("access control lists; the file system of {} has none", path.display()));
            false
        }
        Err(error) => panic!("{list:?}: {error}"),
    }
}

/// What the kernel says; `None` unless this process may become another user.
fn kernel(path: &Path, bits: u32) -> Option<bool> {
    if !nix::unistd::geteuid().is_root() {
        return None;
    }
    let flag = match bits {
        READ => "-r",
        WRITE => "-w",
        _ => "-x",
    };
    let run = Command::new("/usr/bin/test").args([flag]).arg(path).uid(USER).gid(GROUP).status();
    Some(run.unwrap().success())
}

#[test]
fn a_list_decides_as_in_the_kernel() {
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let file = directory.path().join("secret");
    fs::write(&file, "x").unwrap();
    let group = fs::metadata(&file).unwrap().gid();
    let list = |named: &[(Tag, u32)], owners: u32, mask: u32, other: u32| {
        let mut list = vec![(Tag::Owner, 0o6)];
        list.extend(named.iter().filter(|(tag, _)| matches!(tag, Tag::User(_))));
        list.push((Tag::OwnerGroup, owners));
        list.extend(named.iter().filter(|(tag, _)| matches!(tag, Tag::Group(_))));
        list.extend([(Tag::Mask, mask), (Tag::Other, other)]);
        list
    };
    let (user, member) = (Tag::User(USER), Tag::Group(GROUP));
    // The list, and what USER may do.
    let table = [
        (list(&[(user, 4)], 0, 4, 0), 4),
        (list(&[(user, 4)], 0, 2, 4), 0),
        (list(&[(user, 0)], 4, 4, 4), 0),
        (list(&[(user, 6)], 0, 6, 0), 6),
        (list(&[(member, 4)], 0, 4, 0), 4),
        (list(&[(member, 0)], 0, 4, 4), 0),
        (list(&[(user, 2), (member, 4)], 0, 6, 0), 2),
        // The mode bits show the mask, 0640: neither a stranger nor the group may read.
        (list(&[(Tag::User(STRANGER), 4)], 0, 4, 0), 0),
        (list(&[(Tag::User(STRANGER), 4)], 0, 4, 4), 4),
        // A mask without bits: the list does not count, and the bits of others do.
        (list(&[(user, 4)], 4, 0, 4), 4),
        (list(&[(user, 4)], 4, 0, 0), 0),
    ];
    for (list, allowed) in table {
        if !set(&file, &list) {
            return;
        }
        let access = Access::of(&file).unwrap();
        assert!(access.has_list());
        for bits in [READ, WRITE, ENTER] {
            let ours = access.allows(USER, &[GROUP], bits);
            assert_eq!(ours, allowed & bits != 0, "{bits:o} of {list:?}");
            assert!(kernel(&file, bits).is_none_or(|kernels| kernels == ours), "{bits:o} of {list:?}");
        }
        assert!(access.allows(fs::metadata(&file).unwrap().uid(), &[], READ | WRITE));
        assert!(!access.allows(USER, &[GROUP], READ | ENTER), "all bits, not one of them");
    }
    // The owner's group and a named one; neither allows both bits.
    assert!(set(&file, &list(&[(member, 4)], 2, 6, 0)));
    let access = Access::of(&file).unwrap();
    let both = [GROUP, group];
    assert!(access.allows(USER, &both, READ) && access.allows(USER, &both, WRITE));
    assert!(!access.allows(USER, &both, READ | WRITE));
}

#[test]
fn only_users_beyond_the_service_make_a_directory_open() {
    let directory = tempfile::tempdir().unwrap();
    let open = |uid| Access::of(directory.path()).unwrap().is_open_beyond(uid);
    let mode = |mode| fs::set_permissions(directory.path(), fs::Permissions::from_mode(mode)).unwrap();
    for (bits, is_open) in [(0o700, false), (0o750, true), (0o701, true)] {
        mode(bits);
        assert_eq!(open(USER), is_open, "{bits:o}");
    }
    mode(0o700);
    let list = |named, owners, mask| {
        [
            (Tag::Owner, 7),
            (Tag::User(named), 7),
            (Tag::OwnerGroup, owners),
            (Tag::Mask, mask),
            (Tag::Other, 0),
        ]
    };
    if !set(directory.path(), &list(USER, 0, 7)) {
        return;
    }
    assert_eq!(fs::metadata(directory.path()).unwrap().mode() & 0o777, 0o770, "the mask is in the mode");
    assert!(!open(USER) && open(STRANGER));
    for (named, owners, mask, is_open) in [
        (STRANGER, 0, 7, true),
        (STRANGER, 0, 0, false),
        (0, 0, 7, false),
        (USER, 5, 7, true),
        (USER, 5, 2, false),
    ] {
        assert!(set(directory.path(), &list(named, owners, mask)));
        assert_eq!(open(USER), is_open, "{named} {owners} {mask}");
    }
}

#[test]
fn an_attribute_of_another_form_is_no_list() {
    let good = [2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255];
    assert_eq!(entries(&good), Some(vec![(Tag::Owner, 6)]));
    for bad in [&good[..3], &good[..11], &[1, 0, 0, 0], &[2, 0, 0, 0, 3, 0, 6, 0, 255, 255, 255, 255]] {
        assert_eq!(entries(bad), None, "{bad:?}");
    }
}
