//! Protected memory: a sealed, mapped memfd. It survives the process if systemd holds its descriptor.
//!
//! Must not know its content. The content never reaches a disk: the memory is locked if the limit allows it
//! (mlock(2)), excluded from core dumps (madvise(2), MADV_DONTDUMP), and zeroized when it is wiped.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use memmap2::{Advice, MmapMut};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::fstat;
use nix::unistd::ftruncate;
use zeroize::Zeroize as _;

/// MFD_NOEXEC_SEAL of memfd_create(2), Linux 6.3: the memory can never be executed.
const NOEXEC_SEAL: MFdFlags = MFdFlags::from_bits_retain(8);
/// The length can never change: an access beyond the end would be a fault (SIGBUS). Writes are not sealed, because
/// the memory must be wiped.
const SEALS: SealFlag = SealFlag::F_SEAL_SHRINK.union(SealFlag::F_SEAL_GROW);

pub(super) struct SealedMemory {
    fd: OwnedFd,
    map: MmapMut,
    locked: bool,
}

impl SealedMemory {
    /// Allocates `length` bytes of zeroes. `name` is shown in /proc/PID/maps (proc(5)).
    ///
    /// # Errors
    /// When the kernel has no memory.
    pub(super) fn create(name: &CStr, length: usize) -> io::Result<Self> {
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let fd = memfd_create(name, flags | NOEXEC_SEAL).or_else(|_| memfd_create(name, flags))?;
        ftruncate(&fd, i64::try_from(length).map_err(io::Error::other)?)?;
        fcntl(&fd, FcntlArg::F_ADD_SEALS(SEALS | SealFlag::F_SEAL_SEAL))?;
        Self::map(fd, length)
    }

    /// Maps the memory of an earlier process.
    ///
    /// # Errors
    /// When the descriptor is not such memory, or does not have this `length`.
    pub(super) fn adopt(fd: OwnedFd, length: usize) -> io::Result<Self> {
        let seals = SealFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GET_SEALS)?);
        if !seals.contains(SEALS) || seals.contains(SealFlag::F_SEAL_WRITE) {
            return Err(io::Error::other("it does not have the seals that we set"));
        }
        if usize::try_from(fstat(&fd)?.st_size) != Ok(length) {
            return Err(io::Error::other("it has the wrong length"));
        }
        Self::map(fd, length)
    }

    fn map(fd: OwnedFd, length: usize) -> io::Result<Self> {
        // SAFETY: the memory cannot be truncated while it is mapped (SEALS). Only this process maps it: the process
        // that created it has ended, and systemd holds the descriptor without mapping it.
        #[allow(unsafe_code)] // there is no safe way to map memory that another process could write to
        let map = unsafe { memmap2::MmapOptions::new().len(length).map_mut(&fd) }?;
        map.advise(Advice::DontDump)?;
        map.advise(Advice::DontFork)?;
        let locked = map.lock().is_ok();
        Ok(Self { fd, map, locked })
    }

    /// Whether it is locked, so that it is never swapped out.
    pub(super) fn is_locked(&self) -> bool {
        self.locked
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.map
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.map
    }

    /// Overwrites all of it, also for every other holder of the descriptor.
    pub(super) fn wipe(&mut self) {
        self.map.zeroize();
    }
}

impl AsFd for SealedMemory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_next_process_reads_the_content_until_it_is_wiped() {
        let mut first = SealedMemory::create(c"test", 8192).unwrap();
        first.bytes_mut()[5000] = 7;
        let copy = first.as_fd().try_clone_to_owned().unwrap();
        let second = SealedMemory::adopt(copy, 8192).unwrap();
        assert_eq!(second.bytes()[5000], 7);
        first.wipe();
        assert!(second.bytes().iter().all(|byte| *byte == 0));
        let grown = ftruncate(&first.fd, 4096).and(ftruncate(&first.fd, 16384));
        assert_eq!(grown, Err(nix::errno::Errno::EPERM));
        assert!(fcntl(&first.fd, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_WRITE)).is_err());
    }

    /// VmFlags in proc(5): `dd` is excluded from a core dump, `dc` is not copied by a fork, `lo` is locked.
    #[test]
    fn it_is_excluded_from_core_dumps_and_locked_if_the_limit_allows() {
        let memory = SealedMemory::create(c"flags", 4096).unwrap();
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let (_, ours) = maps.split_once("/memfd:flags").unwrap();
        let flags = ours.lines().find_map(|line| line.strip_prefix("VmFlags:")).unwrap();
        let has = |flag: &str| flags.split_whitespace().any(|shown| shown == flag);
        assert!(has("dd") && has("dc"), "{flags}");
        assert_eq!(has("lo"), memory.is_locked(), "{flags}");
    }

    #[test]
    fn other_descriptors_are_refused() {
        let file: OwnedFd = tempfile::tempfile().unwrap().into();
        assert!(SealedMemory::adopt(file, 4096).is_err());
        let unsealed = memfd_create(c"test", MFdFlags::MFD_ALLOW_SEALING).unwrap();
        ftruncate(&unsealed, 4096).unwrap();
        assert!(SealedMemory::adopt(unsealed.try_clone().unwrap(), 4096).is_err());
        fcntl(&unsealed, FcntlArg::F_ADD_SEALS(SEALS)).unwrap();
        assert!(SealedMemory::adopt(unsealed.try_clone().unwrap(), 8192).is_err());
        assert!(SealedMemory::adopt(unsealed, 4096).is_ok());
    }
}
