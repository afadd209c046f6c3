import type { Millis } from '../devices/reading.ts'

/** Whether a device is there, and since when that is so. */
export interface Presence {
  state: 'online' | 'offline'
  since: Millis
}

/** Devices that one connection may speak for; a gateway with more is heard, and its further devices have no presence. */
const maxDevicesPerConnection = 10_000

/**
 * A device is online while a connection lives over which it has pushed telemetry: its own, or that of a gateway.
 * `onChange` is called when the first such connection speaks and when the last one has ended.
 */
export function createPresence<Connection extends object>(onChange: (device: string, presence: Presence) => void) {
  const devicesOf = new Map<Connection, Set<string>>()
  const connectionsOf = new Map<string, Set<Connection>>()

  return {
    /** The connection carried telemetry of the device. */
    heard(connection: Connection, device: string): void {
      let devices = devicesOf.get(connection)
      if (!devices) {
        devices = new Set()
        devicesOf.set(connection, devices)
      }
      if (devices.has(device) || devices.size >= maxDevicesPerConnection) return
      devices.add(device)
      const connections = connectionsOf.get(device)
      if (connections) {
        connections.add(connection)
        return
      }
      connectionsOf.set(device, new Set([connection]))
      onChange(device, { state: 'online', since: Date.now() })
    },
    /** The connection has ended. */
    ended(connection: Connection): void {
      const devices = devicesOf.get(connection)
      devicesOf.delete(connection)
      for (const device of devices ?? []) {
        const connections = connectionsOf.get(device)
        connections?.delete(connection)
        if (connections?.size !== 0) continue
        connectionsOf.delete(device)
        onChange(device, { state: 'offline', since: Date.now() })
      }
    },
    isOnline: (device: string): boolean => connectionsOf.has(device),
    get online() {
      return connectionsOf.size
    },
  }
}
