//! The user that the service runs as, and whether it may read a file.
//!
//! By mode bits and access control lists; SELinux may decide otherwise.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::unistd::{Group, Uid, User, getgrouplist};

use super::access::{Access, ENTER, READ, WRITE};
use super::finding::{Check, Finding};
use super::report::Report;
use crate::config::DEFAULT_RUNTIME_DIR;
use crate::systemd::units::Units;

/// Warns when the check runs neither as root nor as the agent's user: another user cannot see everything.
pub(crate) fn check(report: &mut Report<'_>) {
    let user = nix::unistd::geteuid();
    if !user.is_root() && !is_agents(user.as_raw()) {
        report.add(Finding::warn(
            Check::Configuration,
            format!("user {user}"),
            "this check does not run as root",
            "the results below are wrong for files and sockets that only root may use",
            "run it as root: sudo kms-plugin check",
        ));
    }
}

/// Whether the runtime directory belongs to this user: then an agent of this user has created it.
fn is_agents(uid: u32) -> bool {
    fs::metadata(DEFAULT_RUNTIME_DIR).is_ok_and(|found| found.uid() == uid)
}

/// Why the user of the service is not known.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UnknownUser {
    #[error("the service has a dynamic user, which exists only while it runs")]
    Dynamic,
    #[error("the user of the agent is not known")]
    NotRoot,
    #[error("user {0} does not exist")]
    Missing(String),
    #[error("the users cannot be read: {0}")]
    Lookup(nix::errno::Errno),
}

/// The user that reads the files when the service runs.
#[derive(Clone, Debug)]
pub(crate) struct ServiceUser {
    pub name: String,
    pub uid: u32,
    gids: Vec<u32>,
    /// The directories that the unit hides from the service.
    hidden: Vec<PathBuf>,
}

impl ServiceUser {
    /// The unit's user; without a unit, the user of this process.
    ///
    /// # Errors
    /// When the user is not known.
    pub(crate) fn of(units: &Units) -> Result<Self, UnknownUser> {
        let unit = &units.service;
        let named = unit.user().filter(|_| !unit.has_dynamic_user());
        let found = match named {
            Some(name) => match name.parse() {
                Ok(uid) => User::from_uid(Uid::from_raw(uid)),
                Err(_) => User::from_name(name),
            },
            None if unit.has_dynamic_user() => return Err(UnknownUser::Dynamic),
            None if !nix::unistd::geteuid().is_root() && !is_agents(nix::unistd::geteuid().as_raw()) => {
                return Err(UnknownUser::NotRoot);
            }
            None => User::from_uid(nix::unistd::geteuid()),
        };
        match found {
            Ok(Some(user)) => {
                let mut user = Self { hidden: unit.hidden_directories(), ..Self::known(user) };
                let groups = unit.groups().filter_map(|name| Group::from_name(name).ok().flatten());
                user.gids.extend(groups.map(|group| group.gid.as_raw()));
                Ok(user)
            }
            Ok(None) => match named {
                Some(name) => Err(UnknownUser::Missing(name.to_owned())),
                // A container's user often has no name.
                None => Ok(Self {
                    name: nix::unistd::geteuid().to_string(),
                    uid: nix::unistd::geteuid().as_raw(),
                    gids: vec![nix::unistd::getegid().as_raw()],
                    hidden: Vec::new(),
                }),
            },
            Err(error) => Err(UnknownUser::Lookup(error)),
        }
    }

    fn known(user: User) -> Self {
        let groups = std::ffi::CString::new(user.name.clone()).ok();
        let groups = groups.and_then(|name| getgrouplist(&name, user.gid).ok()).unwrap_or(vec![user.gid]);
        Self {
            name: user.name,
            hidden: Vec::new(),
            uid: user.uid.as_raw(),
            gids: groups.iter().map(|gid| gid.as_raw()).collect(),
        }
    }

    /// A user that owns nothing.
    #[cfg(test)]
    pub(super) fn stranger(name: &str) -> Self {
        Self { name: name.to_owned(), uid: 65_534, gids: vec![65_534], hidden: Vec::new() }
    }

    /// Whether it can read this file; `Err` names what does not allow it: the file, or a directory above it.
    pub(crate) fn may_read(&self, path: &Path) -> Result<(), PathBuf> {
        if let Some(hidden) = self.hidden.iter().find(|hidden| path.starts_with(hidden)) {
            return Err(hidden.clone());
        }
        let directories: Vec<&Path> = path.ancestors().skip(1).collect();
        for directory in directories.into_iter().rev() {
            if !self.may(directory, ENTER) {
                return Err(directory.to_path_buf());
            }
        }
        if self.may(path, READ) { Ok(()) } else { Err(path.to_path_buf()) }
    }

    /// Whether it can list the files of this directory; `Err` as above.
    pub(crate) fn may_list(&self, directory: &Path) -> Result<(), PathBuf> {
        self.may_read(directory)?;
        if self.may(directory, READ | ENTER) { Ok(()) } else { Err(directory.to_path_buf()) }
    }

    /// Whether it may create files in this directory; `Err` as above.
    pub(crate) fn may_write_in(&self, directory: &Path) -> Result<(), PathBuf> {
        let above: Vec<&Path> = directory.ancestors().skip(1).collect();
        let denies = above.into_iter().rev().find(|above| !self.may(above, ENTER));
        match denies {
            Some(above) => Err(above.to_path_buf()),
            None if self.may(directory, WRITE | ENTER) => Ok(()),
            None => Err(directory.to_path_buf()),
        }
    }

    /// The command that lets it read a file of root, or list a directory of root. Nobody loses access.
    pub(crate) fn grant(&self, path: &Path) -> String {
        let (name, shown, is_directory) = (&self.name, path.display(), path.is_dir());
        match (Access::of(path).is_some_and(|access| access.has_list()), is_directory) {
            (true, true) => format!("setfacl -m u:{name}:rx {shown}"),
            (true, false) => format!("setfacl -m u:{name}:r {shown}"),
            (false, true) => format!("chown root:{name} {shown} && chmod 0750 {shown}"),
            (false, false) => format!("chown root:{name} {shown} && chmod 0640 {shown}"),
        }
    }

    /// The command that lets it write in a directory of its own, where `obstacle` does not allow it: the directory, or one
    /// above it, which keeps its owner.
    pub(crate) fn grant_own(&self, directory: &Path, obstacle: &Path) -> String {
        let (name, at) = (&self.name, obstacle.display());
        match Access::of(obstacle).is_some_and(|access| access.has_list()) {
            _ if obstacle == directory => format!("chown {name}:{name} {at} && chmod 0700 {at}"),
            true => format!("setfacl -m u:{name}:x {at}"),
            false => format!("chmod a+x {at}"),
        }
    }

    /// Whether it may do this with a file. What this process cannot see counts as allowed.
    fn may(&self, path: &Path, bits: u32) -> bool {
        self.uid == 0 || Access::of(path).is_none_or(|access| access.allows(self.uid, &self.gids, bits))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::super::access::tests::not_tested;
    use super::*;

    #[test]
    fn a_file_or_a_directory_can_deny_it() {
        let directory = tempfile::tempdir().unwrap();
        let inner = directory.path().join("inner");
        let file = inner.join("secret");
        fs::create_dir(&inner).unwrap();
        fs::write(&file, "x").unwrap();
        let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        mode(directory.path(), 0o755);
        let nobody =
            ServiceUser { name: "nobody".into(), uid: 65_534, gids: vec![65_534], hidden: Vec::new() };
        mode(&file, 0o604);
        mode(&inner, 0o700);
        assert_eq!(nobody.may_read(&file), Err(inner.clone()));
        mode(&inner, 0o711);
        assert_eq!(nobody.may_read(&file), Ok(()));
        mode(&file, 0o640);
        assert_eq!(nobody.may_read(&file), Err(file.clone()));
        let member = ServiceUser { gids: vec![fs::metadata(&file).unwrap().gid()], ..nobody };
        assert_eq!(member.may_read(&file), Ok(()));
        assert_eq!(member.may_write_in(&inner), Err(inner.clone()));
        mode(&inner, 0o771);
        assert_eq!(member.may_write_in(&inner), Ok(()));
        // A directory above keeps its owner: others use it.
        let shown = inner.display();
        assert_eq!(
            member.grant_own(&inner, &inner),
            format!("chown nobody:nobody {shown} && chmod 0700 {shown}")
        );
        assert_eq!(member.grant_own(&file, &inner), format!("chmod a+x {shown}"));
        let root = ServiceUser { uid: 0, ..member };
        assert_eq!(root.may_read(&file), Ok(()));
        let sandboxed = ServiceUser { hidden: vec![PathBuf::from("/root")], ..root };
        assert_eq!(sandboxed.may_read(Path::new("/root/secret-id")), Err(PathBuf::from("/root")));
    }

    /// With setfacl(1), as an administrator does it; the remedy is such a command, too.
    #[test]
    fn an_access_list_allows_it_and_the_remedy_keeps_the_access_of_others() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("secret");
        fs::write(&file, "x").unwrap();
        for (path, mode) in [(directory.path(), 0o700), (&file, 0o600)] {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        }
        let Ok(Some(nobody)) = User::from_name("nobody") else {
            not_tested("setfacl; there is no user nobody");
            return;
        };
        let nobody = ServiceUser::known(nobody);
        let sh = |command: &str| std::process::Command::new("sh").args(["-c", command]).output();
        let (in_directory, shown) = (directory.path().display(), file.display());
        assert_eq!(nobody.may_read(&file), Err(directory.path().to_path_buf()));
        let given = sh(&format!("setfacl -m u:daemon:rx {in_directory} && setfacl -m u:daemon:r {shown}"));
        let given = given.unwrap();
        if !given.status.success() {
            not_tested(&format!("setfacl; {}", String::from_utf8_lossy(&given.stderr)));
            return;
        }
        let daemon = ServiceUser::known(User::from_name("daemon").unwrap().unwrap());
        assert_eq!(daemon.may_read(&file), Ok(()));
        assert_eq!(nobody.may_read(&file), Err(directory.path().to_path_buf()));
        for denies in [directory.path(), &file] {
            assert_eq!(nobody.may_read(&file), Err(denies.to_path_buf()));
            let remedy = nobody.grant(denies);
            assert!(remedy.starts_with("setfacl -m u:nobody:r"), "{remedy}");
            assert!(sh(&remedy).unwrap().status.success(), "{remedy}");
        }
        assert_eq!((nobody.may_read(&file), daemon.may_read(&file)), (Ok(()), Ok(())));
        assert_eq!(nobody.may_list(directory.path()), Ok(()));
        assert_eq!(nobody.may_write_in(directory.path()), Err(directory.path().to_path_buf()));
        assert!(sh(&format!("setfacl -m u:nobody:rwx {in_directory}")).unwrap().status.success());
        assert_eq!(nobody.may_write_in(directory.path()), Ok(()));
    }
}
