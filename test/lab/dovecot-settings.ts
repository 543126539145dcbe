/**
 * What a lab node's dovecot.conf says, in the two syntaxes: 2.3 (Debian 12, Ubuntu 24.04) and 2.4 (Debian 13).
 * Same behaviour in both: one maildir tree, users from a passwd-file, no penalties or delays, login processes kept.
 */

export interface NodeSettings {
  readonly name: string;
  readonly address: string;
  readonly ports: DovecotPorts;
  readonly spoolDir: string;
  readonly runDir: string;
  readonly usersFile: string;
  /** The account that owns all mail. */
  readonly uid: number;
  readonly gid: number;
  /** Set when Dovecot does not run as root: everything runs as this account, without chroots. */
  readonly rootless: { readonly user: string; readonly group: string } | null;
  readonly tls: { readonly cert: string; readonly key: string } | null;
  readonly extra: string;
}

export interface DovecotPorts {
  readonly imap: number;
  readonly lmtp: number;
  readonly pop3: number;
  readonly sieve: number;
}

/** What both versions understand. */
function common({ name, address, ports, runDir, rootless }: NodeSettings, version: '2.3' | '2.4'): string {
  // How many sessions a process serves before it is replaced; the setting was renamed in 2.4.
  const served = (count: number) =>
    version === '2.3'
      ? `service_count = ${count}`
      : `restart_request_count = ${count === 0 ? 'unlimited' : count}`;
  const chroot = rootless === null ? '' : 'chroot =';
  const login = (service: string, listeners: string) => `service ${service} {
  ${served(0)}
  process_min_avail = 1
  process_limit = 4
  client_limit = 4000
  ${chroot}
  ${listeners}
}
`;
  return `
protocols = imap lmtp pop3 sieve
listen = ${address}
hostname = ${name}
instance_name = ${name}
base_dir = ${runDir}/base
state_dir = ${runDir}/state
log_path = ${runDir}/dovecot.log
log_timestamp = "%Y-%m-%d %H:%M:%S.%{usecs} "
login_greeting = ${name} ready.
auth_verbose = yes
auth_failure_delay = 0
login_trusted_networks = 127.0.0.0/8
mail_max_userip_connections = 1000
postmaster_address = postmaster@example.org
recipient_delimiter = +
mmap_disable = yes
first_valid_uid = 1
default_vsz_limit = 1024M
shutdown_clients = yes
${rootless === null ? '' : `default_internal_user = ${rootless.user}\ndefault_login_user = ${rootless.user}\ndefault_internal_group = ${rootless.group}\n`}
${login('imap-login', `inet_listener imap {\n port = ${ports.imap}\n}\ninet_listener imaps {\n port = 0\n}`)}
${login('pop3-login', `inet_listener pop3 {\n port = ${ports.pop3}\n}\ninet_listener pop3s {\n port = 0\n}`)}
${login('managesieve-login', `inet_listener sieve {\n port = ${ports.sieve}\n}`)}
service lmtp {
  ${served(0)}
  process_min_avail = 2
  process_limit = 200
  inet_listener lmtp {
    port = ${ports.lmtp}
  }
}
service imap {
  process_min_avail = 1
  ${served(100)}
  process_limit = 1000
}
service auth {
  client_limit = 8000
}
service anvil {
  client_limit = 8000
  ${chroot}
  # Mode 0: no growing delays for addresses with wrong passwords; here all clients share one.
  unix_listener anvil-auth-penalty {
    mode = 0
  }
}
service stats {
  ${chroot}
}
`;
}

export function settings23(node: NodeSettings): string {
  const { spoolDir, usersFile, uid, gid, tls, extra } = node;
  return `# Dovecot 2.3
${common(node, '2.3')}
mail_location = maildir:${spoolDir}/%d/%n/Maildir
disable_plaintext_auth = no
ssl = ${tls === null ? 'no' : `yes\nssl_cert = <${tls.cert}\nssl_key = <${tls.key}`}
auth_mechanisms = plain login
passdb {
  driver = passwd-file
  args = scheme=PLAIN username_format=%u ${usersFile}
}
userdb {
  driver = passwd-file
  args = username_format=%u ${usersFile}
  default_fields = uid=${uid} gid=${gid} home=${spoolDir}/%d/%n
}
namespace inbox {
  inbox = yes
}
plugin {
  sieve = file:~/sieve;active=~/.dovecot.sieve
}
protocol lmtp {
  mail_plugins = sieve
}
${extra}
`;
}

export function settings24(node: NodeSettings): string {
  const { spoolDir, usersFile, uid, gid, tls, extra } = node;
  return `dovecot_config_version = 2.4.0
dovecot_storage_version = 2.4.0
${common(node, '2.4')}
mail_driver = maildir
mail_home = ${spoolDir}/%{user | domain}/%{user | username}
mail_path = ${spoolDir}/%{user | domain}/%{user | username}/Maildir
auth_allow_cleartext = yes
ssl = ${tls === null ? 'no' : `yes\nssl_server_cert_file = ${tls.cert}\nssl_server_key_file = ${tls.key}`}
auth_mechanisms = plain login
passdb passwd-file {
  passwd_file_path = ${usersFile}
  default_password_scheme = plain
}
userdb passwd-file {
  passwd_file_path = ${usersFile}
  fields {
    uid:default = ${uid}
    gid:default = ${gid}
    home:default = ${spoolDir}/%{user | domain}/%{user | username}
  }
}
namespace inbox {
  inbox = yes
}
sieve_script personal {
  driver = file
  path = ~/sieve
  active_path = ~/.dovecot.sieve
}
protocol lmtp {
  mail_plugins {
    sieve = yes
  }
}
${extra}
`;
}
