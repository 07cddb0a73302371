import type { ProblemCode } from '../contract/problems.ts'

/** What the reader of a refusal can do about it; printed into errors.md beside status and title. */
export const advice: Record<ProblemCode, string> = {
  request_malformed:
    'Read the sentence that came with it: it names the field or the place. Send the request again, corrected; `npx fleetgate help COMMAND` has what a command takes, [openapi.json](openapi.json) what the API does.',
  unauthenticated:
    'Present a credential: EST wants HTTP Basic with device id and enrollment token, or a client certificate; the admin API wants the operator certificate.',
  forbidden:
    'Use a credential that is meant for this: a device certificate, for example, does not open the admin API. `npx fleetgate operator create NAME --role ROLE --out DIR` makes one that does, `npx fleetgate api-token create` one for programs.',
  role_insufficient:
    'Ask somebody with the role that the sentence names, or have yours changed: `npx fleetgate operator set-role NAME ROLE`.',
  not_found:
    'Check the path. EST is under `/.well-known/est/`, with the labels that `labels` of the configuration has, the admin API under `/v1/`. Of a name: `ls` lists those there are, as `npx fleetgate session ls`, `npx fleetgate incident ls`.',
  method_not_allowed: 'Use the method named in the `Allow` header.',
  conflict:
    'Somebody else changed it first, or it exists. Read it again (`npx fleetgate device show ID`, or what else it is about), then decide; `npx fleetgate audit tail` has who did what.',
  body_too_large: 'Send less, or raise `enroll.maxBodyBytes`.',
  request_timeout:
    'Send the request whole within `enroll.requestTimeoutMs`. If honest devices meet it, their way to here is slow or loses what they send.',
  headers_too_large: 'Send no more than 8 kB of headers: EST needs a few hundred octets of them.',
  media_type_unsupported:
    'Set the content type that the sentence names; for EST it is `application/pkcs10`, for the admin API `application/json`, which `fleetgate enroll` and the other commands send by themselves: for a call of your own see [openapi.json](openapi.json).',
  misdirected:
    'Ask for a name or address that stands in the server certificate (`names` in the configuration), over https, or send the path alone.',
  too_many_requests:
    'Wait for the time in `Retry-After`. If honest devices meet it behind one address, raise `enroll.attemptsPerMinute`.',
  internal:
    'Look for the request id in the log of the service (`log.level: debug` has more of it, without a restart), and at `npx fleetgate doctor`. Report it if they do not explain it.',
  unavailable: 'Try again after `Retry-After`. If it lasts, look whether the service runs: `npx fleetgate status`.',
  outcome_unknown:
    'Ask again with the same `Idempotency-Key` (EST: the same request; `fleetgate` does so by itself when it is called again): the change has one effect, however often it is asked for. If it lasts, `npx fleetgate doctor` looks at the disk.',

  precondition_failed:
    'Somebody else changed it first: `npx fleetgate audit tail` says who. Read it again for its new `ETag`, then decide.',
  operator_unknown: 'See which there are: `npx fleetgate operator ls`.',
  operator_exists:
    'Take another name: the audit log names who did what by it, so it is given once. `npx fleetgate operator ls` has those there are; one that is disabled comes back by `npx fleetgate operator enable NAME`.',
  api_token_invalid: 'It was removed, or cut when it was copied. Make a new one: `npx fleetgate api-token create`.',
  api_token_expired: 'Make a new one: `npx fleetgate api-token create`. `api-token ls` says when each expires.',
  api_token_unknown: 'See which there are: `npx fleetgate api-token ls`.',
  api_token_exists: 'Remove the one of that name, `npx fleetgate api-token rm NAME`, or take another.',
  operator_disabled:
    'An operator with the role admin can say why, and let you in again: `npx fleetgate operator enable NAME`. One that was removed does not come back.',

  csr_malformed:
    'Send base64 of one DER PKCS#10 request, for example from `openssl req -new -outform DER | openssl base64 -A`; `npx fleetgate enroll` makes its own. For `operator create --csr` it is a PEM file.',
  csr_signature_invalid:
    'The request was changed after it was signed, or signed with another key. Make a new one, or have `npx fleetgate enroll` make it.',
  csr_key_unsupported:
    'Use P-256, P-384, Ed25519, or RSA of 2048 to 4096 bits with exponent 65537, of those that `keyTypes` of the profile in `profiles` has: `npx fleetgate enroll --key-type P-256`.',
  csr_key_too_weak: 'Make a larger key; P-256 is the usual choice: `npx fleetgate enroll --key-type P-256`.',
  csr_subject_mismatch: 'Set the CN of the request to the device id, alone: `-subj /CN=cam-1`.',
  channel_binding_missing:
    'Put base64 of the channel binding into challengePassword (libest: `-z`; RFC 7030 3.5), or use a profile with `channelBinding: optional`.',
  channel_binding_unavailable:
    'Connect with TLS 1.3, or with a TLS 1.2 client that has Extended Master Secret (RFC 7627), or leave the challengePassword out.',
  channel_binding_mismatch:
    'challengePassword is for the channel binding alone, base64 of tls-unique (TLS 1.2) or tls-exporter (TLS 1.3), of the connection that carries the request. An enrollment code does not belong there: it is the HTTP password. If the client did bind, somebody is between it and the gateway.',
  cmc_malformed:
    'Send base64 of a DER Full PKI Request: SignedData around PKIData with one PKCS#10, and no controls but transactionId, senderNonce and dataReturn. A PKCS#10 alone goes to `simpleenroll`.',
  cmc_signature_invalid:
    'Sign with the certificate that the TLS connection shows; for a first enrollment with a token, with the key that is to be certified.',
  keygen_disabled:
    'Make the key on the device and use `simpleenroll`; or, for devices that cannot, set `serverKeygen` in their profile.',
  key_encryption_required:
    'Name a key of the device in AsymmetricDecryptKeyIdentifier (RFC 7030 4.4.1.2). `serverKeygen: clear` in the profile lets TLS alone protect the key.',
  key_encryption_unavailable:
    'Name the key of the current certificate by its subjectKeyIdentifier; it must be EC or RSA, and enrolled since `serverKeygen` was set in the profile. The sentence says what is missing.',
  subject_changed: 'Renew with the subject and names of the current certificate. A new name is a new device.',
  key_compromised:
    'Somebody uses a key whose device was stolen, or whose certificate was revoked for keyCompromise. `npx fleetgate incident ls` has the address. A device of yours has to make a new key: `npx fleetgate token create --device ID`, and enroll it in a new folder.',
  lint_failed: 'Nothing was signed. Look at the log for the rule and the profile, and correct the profile.',
  key_unavailable: 'Look at the log of enroll: the key file is gone, unreadable or encrypted with another passphrase.',

  device_unknown: 'List the devices there are: `npx fleetgate device ls`.',
  device_exists: 'See it with `npx fleetgate device show ID`; choose another id, or make a token for this one.',
  device_revoked:
    'A revoked device stays out, whatever it still holds. When you have looked at the hardware: `npx fleetgate device readmit ID`, then enroll it anew.',
  device_held:
    'An operator has put the device on hold. It keeps its certificates, and `npx fleetgate device enable ID` lets it use them again.',
  profile_unknown: 'Name a profile of the configuration (`profiles`), by default `sensor`, `camera` or `service`.',
  label_mismatch:
    'Use the path that the sentence names: a certificate is renewed under the label it was enrolled under, and a label with a profile is for devices of that profile (`labels` of the configuration). Of a device that is to have another profile (`npx fleetgate device set ID --profile P`): it would renew no more where it was enrolled; do first what the sentence says.',
  token_invalid:
    'Check device id (the user name) and token (the password). Make a new one: `npx fleetgate token create --device ID`.',
  token_expired: 'Make a new one: `npx fleetgate token create --device ID`.',
  token_spent:
    'A token enrolls one key. The same request may fetch its answer again; for another key make a new token. If you did not enroll the device, somebody else did: revoke it.',
  token_void:
    'The device was revoked, and its unused tokens with it: `npx fleetgate device show ID` says why. To have it back: `npx fleetgate device readmit ID`, then `npx fleetgate token create --device ID`.',
  device_not_allowed:
    'Allow it by the serial number in the sentence: `npx fleetgate device allow --file serials.csv --label L`, or register a device of that name.',
  hardware_stolen:
    'It has the serial number or the key that the factory gave to a device which was reported stolen. You have that device in hand again? `npx fleetgate device readmit ID --stolen-recovered`. Another factory has given the same serial number? `npx fleetgate device allow --file serials.csv --label L --other-hardware`; of the same key nobody can say that.',
  claim_refused:
    'Whoever holds a claim certificate hears this for every name that it may not enroll. Why it may not is in the audit log, as `unsaid`: `npx fleetgate audit tail --action enrollment.refused`. With `device_unknown` register the device; with `claim_spent` another key has it: if the device did not enroll before, somebody else with the shared key took its name. Revoke it, look whose address stands in the audit log, then `npx fleetgate device readmit ID`.',
  claim_spent:
    'If this device did not enroll before, somebody else with the shared key took its name: revoke it, look whose address stands in the audit log, then `npx fleetgate device readmit ID`.',
  approval_unknown:
    'List the requests there are: `npx fleetgate enroll approvals ls --all`. They are forgotten after a time.',
  approval_denied:
    'The reason stands in the sentence. A denial is for one request: another key, or the same one after `enroll.approvals.expireMs`, may be asked for again.',
  approval_spent: 'The certificate that was approved has ended. Make a new request, which waits for approval again.',
  approval_queue_full:
    'Approve or deny what waits: `npx fleetgate enroll approvals ls`. The bounds are `enroll.approvals` of the configuration.',
  evidence_mismatch:
    'Look which token was given to this piece of hardware: token and certificate have to be of one device.',
  late_renewal_unknown: 'See who has one: `npx fleetgate enroll allow-late --list`.',
  late_renewal_spent:
    'A permission is for one key. The same request may fetch its answer again; for another key allow it once more. If the device did not renew, somebody else has its key: revoke it.',
  certificate_unknown: 'List the certificates there are: `npx fleetgate cert ls`.',
  last_operator:
    'Make another operator first; or confirm it, `npx fleetgate cert revoke SERIAL --yes`. Who holds the data folder gets back in: delete `operator/operator.crt` and `operator/operator.key` there and start enroll again, which makes another.',

  certificate_missing:
    'Give the client its certificate and key (mosquitto: `--cert`, `--key`); it has none? `npx fleetgate token create --device ID`, and enroll it. An operator names the folder that has theirs: `--data DIR`, as `npx fleetgate operator create` made it.',
  certificate_self_signed:
    'A certificate that a device made itself is worth nothing here. Enroll it: `npx fleetgate token create --device ID`.',
  certificate_untrusted:
    'The certificate is of another CA, or its chain does not hold: `npx fleetgate cert verify FILE` says which. Enroll the device with this gateway, or trust that CA: `broker.trust`.',
  certificate_expired:
    'Let the device renew with it once more, `npx fleetgate enroll allow-late ID --ttl 24h`, or enroll it again with a new token. Look why it did not renew in time, and check its clock.',
  certificate_not_yet_valid:
    'Check the clocks of gateway and device: `npx fleetgate doctor` looks at those of the gateway.',
  certificate_wrong_usage:
    'A server certificate was used as a client certificate. Use the one that was enrolled for the device.',
  certificate_superseded:
    'Renew with the newer certificate. If the device does not have it, somebody else has its key: see the incident, `npx fleetgate incident ls`, and revoke it.',
  certificate_revoked: 'The device was revoked; see when and why with `npx fleetgate device show ID`.',
  certificate_bad_signature:
    'Somebody uses the name of a CA that is trusted here. If it is your own CA with a new key, put its new certificate into the file of `broker.trust`.',
  certificate_held: 'Its CA has put the certificate on hold. Ask who runs that CA, or enroll the device here.',
  key_suspended:
    'Somebody else may have the key of this device: see `npx fleetgate denial ls --device ID` for the addresses, and revoke it if one is not yours. If both are, the device has two uplinks (`broker.clones.sites`) or its key is on two devices. It may connect again at the time that the sentence names.',
  certificate_pin_mismatch:
    'The CA is trusted with `pins: required`: the registry has to know this very certificate. Enroll the device here.',
  certificate_status_stale:
    'Fetch a new revocation list into the `crl` file of `broker.trust`; it is read again by itself.',
  certificate_unregistered:
    'The CA signed it, the registry does not know it: another data folder, or a restored backup that is too old. Enroll the device again, `npx fleetgate token create --device ID`; `npx fleetgate cert inspect FILE` says what the certificate is.',

  password_wrong:
    'Check user name (the device id, or none) and password; set another with `fleetgate broker passwd DEVICE`.',
  client_id_mismatch:
    'Use the device id as MQTT client id, or the device id, `:` and a suffix of your own, or an empty one.',
  protocol_violation:
    'The client sent something that MQTT does not allow; the log names it. Update the client library.',
  packet_too_large: 'Send smaller packets, or raise `broker.maxPacketBytes` or `broker.maxConnectBytes`.',
  connect_timeout:
    'The client connected and did not send CONNECT in `broker.connectTimeoutMs`. Port scanners and health checks do that too.',
  handshake_failed:
    'The peer does not speak TLS 1.2 or 1.3, or went away. Check that it was pointed at the right port.',
  publish_denied:
    'Compare the topic in the log with `npx fleetgate policy show`. MQTT 3.1.1 has no refusal of a publish: it is acknowledged to the device, and dropped.',
  subscribe_denied:
    'Compare with `npx fleetgate policy show`. A filter is granted when an allowed one covers it, so ask for the topics that the device may have, not for `#`.',
  will_denied: 'The topic of the will is one that the device may not publish to, or is not a topic name.',
  qos_denied:
    'Publish at a lower QoS, or raise `maxQos` of the statement in the log. A version 5 client is told the highest in its CONNACK.',
  retain_denied:
    'Publish without RETAIN, or take `retain: false` or `retainedMessages: 0` out of the policy. Nothing of the message was delivered.',
  payload_too_large: 'Send smaller messages, or raise `payloadBytes` in the limits of the policy.',
  rate_limited:
    'Publish less often, or raise `messagesPerSecond` or `bytesPerSecond` in the limits of the policy. QoS 0 was dropped, QoS 1 and 2 were refused (version 5) or kept waiting (3.1.1).',
  connect_condition:
    'The sentence names the statement and what did not hold: the time in UTC, or the address that the connection came from.',
  delivery_denied:
    'A subscription matched, the policy in force no longer allows the topic. Nothing to do for the device.',
  too_many_connections: 'Close old connections of the device, or raise `broker.maxConnectionsPerDevice`.',
  quota_exceeded: 'Wait until its sessions have read what is stored for them, or keep less for it.',
  quarantined:
    'Nothing is wrong with the certificate any more: connect again. A connection that began in quarantine stays there.',
  slow_reader:
    'The device did not read for so long that `broker.maxBufferedBytes` was reached. Subscribe to less, or give it a better link.',
  session_taken_over: 'Two clients use one client id. Give each its own suffix: `cam-1:a`, `cam-1:b`.',
  session_elsewhere:
    'A device that moved to another broker has nothing to do. Two clients of one device that are in two places at a time take a suffix each, `cam-1:a` and `cam-1:b`, and places that belong together stand in `broker.clones.sites`. Is one of the two not yours? `npx fleetgate device stolen ID`.',
  kicked:
    'Connect again: an operator has ended this one session, and the audit log says who. To keep a device out: `npx fleetgate device disable ID`.',
  snapshot_stale:
    'The broker has not reached enroll since it started, or for `broker.stale.afterMs`, so it does not know who is revoked. Start enroll, or look at the connection to `broker.feed`; devices get in by themselves then. What holds meanwhile is in operations.md.',

  gateway_untrusted:
    'Compare the fingerprint with the one that `npx fleetgate status` shows on the gateway. If they agree, somebody is between device and gateway.',
  renewal_due: 'Run `fleetgate renew --dir DIR`, and look why its timer did not.',
  unhealthy: 'Each line of `npx fleetgate doctor` that fails says what to type.',
  interrupted: 'Nothing is left behind; start the command again.',

  config_invalid:
    'The sentence names file, line and key, or the variable; `npx fleetgate config check FILE` says it again. All keys are in [configuration.md](configuration.md). A gateway that runs goes on with what it had.',
  policy_invalid:
    'The sentence names file, line and statement. Try it with `npx fleetgate policy check FILE` before you apply it.',
  port_in_use: 'Stop what uses the port, choose another address, or start with `--ports auto`.',
  data_in_use: 'Another gateway runs on this data folder. Stop it, or give this one another folder with `--data`.',
  denial_unknown:
    'Only the last ones are kept, 32 of a device. The log line has the id too, with the cause; see those that are there with `npx fleetgate denial ls`.',

  backup_unreadable:
    'Is it the passphrase that the backup was made with? A backup that was changed or cut off cannot be restored, not even in part: take another one.',
  audit_broken:
    'The sentence says which entry or checkpoint. Keep the file and the data folder as they are, and compare with an earlier export: `npx fleetgate audit verify FILE --continues EARLIER`.',
  data_damaged:
    'The sentence names the file. Restore the data folder as a whole, `npx fleetgate backup restore FILE --data DIR`; never mix files of two.',
  key_permissions: 'Run the `chmod` in the sentence, and consider whether somebody has read the key.',
  key_passphrase:
    'Point `keys.passphraseFile` to the passphrase that the keys were made with. A change of it that was cut short is brought to its end by the same `npx fleetgate keys passphrase`.',
}
