//! Who may use a file: by its mode bits, and by its access control list where it has one (acl(5)).
//!
//! Decides as the kernel does (path_resolution(7)), for any user, without a change of the user of this process. Must not
//! know what the file is for. SELinux and the access lists of NFS version 4 may still decide otherwise.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// The extended attribute that holds the list. It is absent where the mode bits say everything.
const ATTRIBUTE: &str = "system.posix_acl_access";
/// Largest value of an extended attribute, in bytes (xattr(7)).
const LARGEST: usize = 64 * 1024;
/// The version of the attribute's form, and the sizes of its head and of one entry (linux/posix_acl_xattr.h).
const VERSION: u32 = 2;
const HEAD: usize = 4;
const ENTRY: usize = 8;

/// To read a file, or to list a directory with [`ENTER`].
pub(super) const READ: u32 = 0o4;
/// To change a directory's files, with [`ENTER`].
pub(super) const WRITE: u32 = 0o2;
/// To reach what is in a directory.
pub(super) const ENTER: u32 = 0o1;

/// Whom an entry of a list is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tag {
    Owner,
    User(u32),
    OwnerGroup,
    Group(u32),
    /// What users, groups and the owner's group get at most.
    Mask,
    Other,
}

/// A file's or directory's owner, mode and list.
#[derive(Clone, Debug)]
pub(super) struct Access {
    owner: u32,
    group: u32,
    mode: u32,
    /// Each entry with its bits; empty without a list.
    list: Vec<(Tag, u32)>,
}

impl Access {
    /// `None` when this process cannot see the file.
    pub(super) fn of(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        let mut value = vec![0; LARGEST];
        // A file system without lists, and a file without one: the mode bits decide.
        let length = rustix::fs::getxattr(path, ATTRIBUTE, value.as_mut_slice()).unwrap_or_default();
        let list = value.get(..length).and_then(entries).unwrap_or_default();
        Some(Self { owner: metadata.uid(), group: metadata.gid(), mode: metadata.mode() & 0o7777, list })
    }

    /// Whether the file has more than mode bits: chmod(1) then changes the mask, and not what the group may do.
    pub(super) fn has_list(&self) -> bool {
        !self.list.is_empty()
    }

    /// Whether a user other than root, in these groups, may do all of `bits`.
    pub(super) fn allows(&self, uid: u32, gids: &[u32], bits: u32) -> bool {
        if uid == self.owner {
            return self.mode >> 6 & bits == bits;
        }
        // Without a bit for anybody, the kernel does not look at the list.
        if self.has_list() && self.mode & 0o070 != 0 {
            return self.list_allows(uid, gids, bits);
        }
        let shift = if gids.contains(&self.group) { 3 } else { 0 };
        self.mode >> shift & bits == bits
    }

    fn list_allows(&self, uid: u32, gids: &[u32], bits: u32) -> bool {
        let of = |wanted: Tag| self.list.iter().find(|(tag, _)| *tag == wanted).map(|(_, bits)| *bits);
        let mask = of(Tag::Mask).unwrap_or(0o7);
        if let Some(own) = of(Tag::User(uid)) {
            return own & mask & bits == bits;
        }
        let is_member = |tag: &Tag| match tag {
            Tag::OwnerGroup => gids.contains(&self.group),
            Tag::Group(gid) => gids.contains(gid),
            _ => false,
        };
        let mut groups = self.list.iter().filter(|(tag, _)| is_member(tag)).peekable();
        match groups.peek() {
            // One group must allow everything.
            Some(_) => groups.any(|(_, own)| own & mask & bits == bits),
            None => of(Tag::Other).unwrap_or_default() & bits == bits,
        }
    }

    /// Whether anybody but root, the owner and this user may do something with it.
    pub(super) fn is_open_beyond(&self, uid: u32) -> bool {
        if !self.has_list() || self.mode & 0o070 == 0 {
            return self.mode & 0o077 != 0;
        }
        let mask = self.mode >> 3 & 0o7;
        self.list.iter().any(|(tag, bits)| match tag {
            Tag::Owner | Tag::Mask | Tag::User(0) => false,
            Tag::User(named) => *named != uid && bits & mask != 0,
            Tag::OwnerGroup | Tag::Group(_) => bits & mask != 0,
            Tag::Other => *bits != 0,
        })
    }
}

/// The entries of an attribute, which is little-endian everywhere; `None` when it has another form.
fn entries(value: &[u8]) -> Option<Vec<(Tag, u32)>> {
    let (head, entries) = value.split_at_checked(HEAD)?;
    if u32::from_le_bytes(head.try_into().ok()?) != VERSION {
        return None;
    }
    let entry = |bytes: &[u8]| {
        let (&[tag_low, tag_high, bits_low, bits_high], id) = bytes.split_first_chunk()?;
        let id = u32::from_le_bytes(id.try_into().ok()?);
        let tag = match u16::from_le_bytes([tag_low, tag_high]) {
            0x01 => Tag::Owner,
            0x02 => Tag::User(id),
            0x04 => Tag::OwnerGroup,
            0x08 => Tag::Group(id),
            0x10 => Tag::Mask,
            0x20 => Tag::Other,
            _ => return None,
        };
        Some((tag, u32::from(u16::from_le_bytes([bits_low, bits_high]))))
    };
    entries.chunks(ENTRY).map(entry).collect()
}

#[cfg(test)]
#[path = "access_tests.rs"]
pub(super) mod tests;
