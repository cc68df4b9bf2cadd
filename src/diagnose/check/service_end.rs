//! Why the process of the service ended: the exit codes of systemd (systemd.exec(5), "Process Exit Codes") and of the
//! agent, and signals.
//!
//! Pure functions: what they say comes from the properties of the unit.

use crate::systemd::unit::{MainExit, Unit};

/// Signal of a system call that the unit forbids (signal(7)).
const SIGSYS: i32 = 31;
const SIGKILL: i32 = 9;
const SIGABRT: i32 = 6;
/// Exit code of a Rust program that panicked.
const PANIC: i32 = 101;

const JOURNAL: &str = "journalctl -u kms-plugin -n 50 shows why";

/// How the service ended.
pub(super) struct End {
    pub cause: String,
    pub remedy: String,
}

/// `None` when systemd does not know how.
pub(super) fn of(unit: &Unit) -> Option<End> {
    let end = |cause: &str, remedy: &str| End { cause: cause.to_owned(), remedy: remedy.to_owned() };
    match unit.result() {
        "oom-kill" => {
            return Some(end(
                "the kernel killed it, because memory ran out (MemoryMax= of the unit or of its slice, or the node's memory)",
                "raise MemoryMax=, or free memory on this node; journalctl -k -g oom shows what was killed",
            ));
        }
        "watchdog" => {
            return Some(end(
                "the watchdog killed it: it hung",
                "send the file of: kms-plugin support-bundle",
            ));
        }
        "start-limit-hit" => {
            return Some(end(
                "it failed so often that systemd gave up (StartLimitIntervalSec=)",
                "correct the cause (journalctl -u kms-plugin -n 50), then: systemctl reset-failed kms-plugin && systemctl start kms-plugin",
            ));
        }
        "timeout" => {
            return Some(end(
                "it did not become ready, or did not end, in time (TimeoutStartSec=, TimeoutStopSec=)",
                JOURNAL,
            ));
        }
        _ => {}
    }
    if let Some(command) = unit.failed_start_command() {
        let cause = format!("a command before it fails: {command} (ExecStartPre=)");
        let remedy = "correct or remove the command: systemctl cat kms-plugin.service shows the drop-in";
        return Some(End { cause, remedy: remedy.into() });
    }
    match unit.main_exit()? {
        MainExit::Code(0) => None,
        MainExit::Code(code) => {
            let (meaning, remedy) = meaning(code);
            Some(End { cause: format!("exit code {code}, {meaning}"), remedy: remedy.to_owned() })
        }
        MainExit::Signal(SIGSYS) => Some(end(
            "it used a system call that the unit forbids (signal SYS)",
            "remove SystemCallFilter= and SystemCallErrorNumber= from the drop-in that changes them: systemctl cat kms-plugin.service",
        )),
        MainExit::Signal(SIGKILL) => Some(end(
            "somebody killed it (signal 9); the kernel does that when memory runs out",
            "journalctl -k -n 50 shows whether the kernel did it",
        )),
        MainExit::Signal(SIGABRT) => Some(end(
            "it aborted (signal 6)",
            "compare the limits of the unit with those of the package: systemctl cat kms-plugin.service; otherwise send the file of: kms-plugin support-bundle",
        )),
        MainExit::Signal(signal) => Some(End { cause: format!("signal {signal}"), remedy: JOURNAL.into() }),
    }
}

/// What an exit code means, and what to do.
fn meaning(code: i32) -> (&'static str, &'static str) {
    match code {
        64 => (
            "its command line is wrong",
            "correct ExecStart= and the variables in the drop-in that changes them: systemctl cat kms-plugin.service",
        ),
        69 => (
            "something that it needs is not available",
            "follow the last error; journalctl -u kms-plugin -n 50 shows more",
        ),
        78 => (
            "its configuration or its runtime directory cannot be used",
            "follow the last error; journalctl -u kms-plugin -n 50 shows more",
        ),
        PANIC => (
            "it panicked: a limit of the unit is too low, or it has a bug",
            "compare the limits with those of the package (systemctl cat kms-plugin.service); otherwise send the file of: kms-plugin support-bundle",
        ),
        200 => (
            "systemd cannot change to WorkingDirectory=",
            "remove WorkingDirectory= from the drop-in that sets it: systemctl cat kms-plugin.service",
        ),
        203 => (
            "systemd cannot run the program of ExecStart=",
            "check that the file exists, is executable, and is allowed by SELinux; or install the package again: dnf reinstall kms-plugin",
        ),
        216 | 217 => (
            "the user or the group of the unit does not exist",
            "systemd-sysusers creates user kms-plugin; remove User= and Group= from the drop-in that changes them: systemctl cat kms-plugin.service",
        ),
        226 => (
            "systemd cannot set up its view of the file system",
            "correct the path in the last error: ReadWritePaths=, BindPaths= and such in a drop-in (systemctl cat kms-plugin.service)",
        ),
        228 => (
            "systemd cannot set up its system call filter",
            "remove SystemCallFilter= from the drop-in that changes it: systemctl cat kms-plugin.service",
        ),
        233 => (
            "systemd cannot create its runtime directory",
            "look at /run/kms-plugin, and at the space on /run: ls -ld /run/kms-plugin; df -h /run",
        ),
        238 => (
            "systemd cannot create its state directory",
            "look at /var/lib/kms-plugin, and at the space on its disk: ls -ld /var/lib/kms-plugin; df -h /var/lib",
        ),
        243 => (
            "systemd cannot pass a credential to it",
            "check the file of each LoadCredential= in: systemctl cat kms-plugin.service",
        ),
        // systemd's own range; those before have words of their own.
        other if (200..=245).contains(&other) => (
            "systemd cannot prepare its process (systemd.exec(5), Process Exit Codes)",
            "correct the setting in the last error: systemctl cat kms-plugin.service",
        ),
        _ => ("which the agent does not use itself", JOURNAL),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::systemd::units::Units;

    fn cause(shown: &str) -> String {
        of(&Units::of_service(shown).service).map_or_else(String::new, |end| end.cause)
    }

    /// The values are those that systemd 252 and 257 showed for each fault.
    #[test]
    fn each_end_has_its_cause() {
        for (shown, words) in [
            ("Result=exit-code\nExecMainCode=1\nExecMainStatus=203", "cannot run the program"),
            ("Result=exit-code\nExecMainCode=1\nExecMainStatus=217", "user or the group"),
            ("Result=exit-code\nExecMainCode=1\nExecMainStatus=226", "view of the file system"),
            ("Result=exit-code\nExecMainCode=1\nExecMainStatus=243", "pass a credential"),
            ("Result=exit-code\nExecMainCode=1\nExecMainStatus=245", "Process Exit Codes"),
            ("Result=exit-code\nExecMainCode=1\nExecMainStatus=101", "panicked"),
            ("Result=exit-code\nExecMainCode=1\nExecMainStatus=69", "not available"),
            ("Result=oom-kill\nExecMainCode=2\nExecMainStatus=9", "memory ran out"),
            ("Result=watchdog\nExecMainCode=2\nExecMainStatus=9", "hung"),
            ("Result=signal\nExecMainCode=2\nExecMainStatus=9", "killed"),
            ("Result=signal\nExecMainCode=2\nExecMainStatus=31", "system call"),
            (
                "Result=exit-code\nExecMainCode=0\nExecMainStatus=0\nExecStartPre={ path=/bin/false ; argv[]=/bin/false -x ; code=exited ; status=1 }",
                "/bin/false -x",
            ),
        ] {
            assert!(cause(shown).contains(words), "{shown}: {}", cause(shown));
        }
        assert_eq!(cause("Result=success\nExecMainCode=0\nExecMainStatus=0"), "");
    }
}
