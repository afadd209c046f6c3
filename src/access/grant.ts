import type { Credential, Role } from './credential.ts'
import { createScope } from './credential.ts'
import type { Revocation } from './revocation.ts'
import { allowsFilter, allowsTopic } from './topic-rules.ts'

/** What somebody who was let in may do, until its revocation. */
export interface Grant {
  /** Whose client ids and sessions are its own: `device:kitchen`, `token:k3fw92ha`; empty where nobody needs credentials. */
  identity: string
  /** For people: in the audit. */
  name: string
  /** What it is as a device; empty: it is none. */
  device: string
  roles: readonly Role[]
  has(role: Role): boolean
  /** Patterns; `*` alone: all devices. */
  devices: readonly string[]
  /** Whether a device, or all devices of a pattern, are within its reach. */
  covers(device: string): boolean
  mayPublish(topic: string): boolean
  maySubscribe(filter: string): boolean
  revocation: Revocation
}

const everywhere = ['#']
const ofDevices = ['devices/{device}/#']
/** ThingsBoard's topics, on which a device speaks of itself. */
const ofItself = ['v1/devices/me/#']
/** Each reading in such a message is checked by itself. */
const ofGateways = ['v1/gateway/telemetry']

export function identityOf({ kind, id, name }: Credential): string {
  return `${kind}:${kind === 'device' ? name : id}`
}

export function grantOf(credential: Credential, revocation: Revocation): Grant {
  const { kind, id, name, roles, devices, publish, subscribe } = credential
  const isDevice = kind === 'device'
  const covers = createScope(devices)
  const has = (role: Role) => roles.includes('admin') || roles.includes(role) || (isDevice && role === 'write')
  const whole = roles.includes('admin') || (!isDevice && devices.includes('*'))
  const own = isDevice ? [...ofDevices, ...ofItself] : ofDevices
  const publishing = !has('write') ? [] : whole ? everywhere : [...own, ...ofGateways]
  const subscribing = !(has('read') || isDevice) ? [] : whole ? everywhere : own
  return {
    identity: identityOf(credential),
    name: isDevice ? `device ${name}` : `token ${id} (${name})`,
    device: isDevice ? name : '',
    roles: isDevice ? ['write'] : roles,
    has,
    devices: roles.includes('admin') ? ['*'] : devices,
    covers: roles.includes('admin') ? () => true : covers,
    mayPublish: (topic) => allowsTopic({ templates: [...publishing, ...publish], covers }, topic),
    maySubscribe(filter) {
      // What the broker says of its clients is for administrators, and no wildcard stands for it. [MQTT-4.7.2-1]
      const isOfBroker = filter.startsWith('$') && !roles.includes('admin')
      return allowsFilter({ templates: isOfBroker ? subscribe : [...subscribing, ...subscribe], covers }, filter)
    },
    revocation,
  }
}

/** For everybody, while there are no credentials and only this machine can come in. */
export function openGrant(revocation: Revocation): Grant {
  return {
    identity: '',
    name: 'anybody on this machine',
    device: '',
    roles: ['admin'],
    has: () => true,
    devices: ['*'],
    covers: () => true,
    mayPublish: () => true,
    maySubscribe: () => true,
    revocation,
  }
}
