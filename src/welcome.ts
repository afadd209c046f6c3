import type { Hub } from './hub.ts'
import type { Config } from './settings.ts'

/** Where everything is, and what to try, for the person who starts the hub. */
export function welcome({ host, data, durability, tlsCert }: Config, hub: Hub): string {
  const secure = tlsCert !== ''
  const here = reachable(host)
  const http = `${secure ? 'https' : 'http'}://${inUrl(here)}:${hub.httpPort}`
  const name = inUrl(host)
  const doors = [
    ...(hub.mqttTlsPort === null ? [] : [`mqtts://${name}:${hub.mqttTlsPort}`]),
    ...(hub.mqttPort === null ? [] : [`mqtt://${name}:${hub.mqttPort}`]),
    `${secure ? 'wss' : 'ws'}://${name}:${hub.httpPort}/mqtt`,
  ]
  // A certificate that nobody else knows is at least good for itself.
  const token = hub.access.open ? '' : ` -H 'Authorization: Bearer hub_…'`
  const curl = `${secure ? `curl --cacert ${tlsCert}` : 'curl'}${token}`
  const login = hub.access.open ? '' : ' -u kitchen -P hub_…'
  const mosquitto = here === '127.0.0.1' ? 'mosquitto_pub' : `mosquitto_pub -h ${here}`
  const publish =
    hub.mqttPort === null ? `${mosquitto} -p ${hub.mqttTlsPort} --cafile ${tlsCert}` : `${mosquitto} -p ${hub.mqttPort}`
  const tries = [
    ...(hub.mqttPort === null && hub.mqttTlsPort === null
      ? []
      : [`${publish}${login} -q 1 -t devices/kitchen/telemetry -m '{"temperature":21.5}'`]),
    `${curl} '${http}/v1/devices/kitchen/telemetry'`,
    `${curl} -N -H 'Accept: text/event-stream' '${http}/v1/feed?after=earliest'`,
  ]
  return `
  MQTT       ${doors.join('   ')}
  Dashboard  ${http}/
  API        ${http}/docs
  Data       ${data}/hub.db
  Durability ${durability === 'fsync' ? 'fsync: what is acknowledged survives a power cut' : 'os: what is acknowledged survives a killed process, not a power cut'}

  Try        ${tries.join('\n             ')}

`
}

/** An address by which this machine reaches what listens on all of its addresses, or on the one that was given. */
function reachable(host: string): string {
  return host === '0.0.0.0' ? '127.0.0.1' : host === '::' ? '::1' : host
}

// RFC 3986 §3.2.2
function inUrl(address: string): string {
  return address.includes(':') ? `[${address}]` : address
}
