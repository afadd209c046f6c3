import type { Value } from './reading.ts'

/**
 * Signal profiles: what a device of some kind would measure at some instant.
 *
 * Every signal is a pure function of (device seed, time, sequence number): any instant can be sampled without history,
 * a simulator that restarts stays on its curves, and counters never fall. Slow change comes from sines and from noise
 * interpolated between hashed lattice points; only the last digits depend on the sequence number, as sensor noise does.
 */

export type Sample = Record<string, Value>

interface Metric {
  name: string
  /** UCUM-like, as people write it: `°C`, `hPa`, `km/h`; empty for states and plain counts. */
  unit: string
}

export interface Profile {
  name: string
  description: string
  metrics: Metric[]
  /** Has every one of `metrics` and nothing else. */
  sample(deviceSeed: number, tsMillis: number, seq: number): Sample
}

const secondMillis = 1000
const minuteMillis = 60 * secondMillis
const hourMillis = 60 * minuteMillis
const dayMillis = 24 * hourMillis
const yearMillis = 365.25 * dayMillis
/** 2025-01-01: where counters start, so that a vehicle of today shows the mileage of a used one. */
const countersSinceMillis = 1_735_689_600_000

/** One seed for each device of a run: neighbours share nothing. */
export function deviceSeed(seed: number, device: number): number {
  return hash(hash(seed, 0x5eed), device)
}

export const profiles: Record<string, Profile> = Object.fromEntries(
  [
    profile('environment', 'a room sensor: temperature, air and whether somebody is there', environment, {
      temperature: '°C',
      humidity: '%',
      co2: 'ppm',
      illuminance: 'lx',
      occupied: '',
      battery: '%',
    }),
    profile('smart-meter', 'an electricity meter of a household', smartMeter, {
      power: 'W',
      voltage: 'V',
      current: 'A',
      frequency: 'Hz',
      energy_kwh: 'kWh',
      tariff: '',
    }),
    profile('weather', 'a weather station with seasons, days, fronts and gusts', weather, {
      temperature: '°C',
      humidity: '%',
      pressure: 'hPa',
      wind_speed: 'm/s',
      wind_direction: '°',
      rain_rate: 'mm/h',
      condition: '',
    }),
    profile('vehicle', 'a delivery van that drives its round and parks', vehicle, {
      speed: 'km/h',
      odometer: 'km',
      latitude: '°',
      longitude: '°',
      heading: '°',
      fuel: '%',
      engine_temperature: '°C',
      ignition: '',
      state: '',
    }),
    profile('machine', 'a machine tool that runs, idles and fails', machine, {
      spindle_speed: 'rpm',
      vibration: 'mm/s',
      temperature: '°C',
      power: 'kW',
      parts: '',
      alarm: '',
      state: '',
    }),
  ].map((each) => [each.name, each]),
)

function profile(
  name: string,
  description: string,
  sample: Profile['sample'],
  units: Record<keyof ReturnType<typeof sample>, string>,
): Profile {
  return { name, description, metrics: Object.entries(units).map(([metric, unit]) => ({ name: metric, unit })), sample }
}

function environment(seed: number, ts: number, seq: number): Sample {
  const day = wave(ts - 15 * hourMillis, dayMillis)
  const daylight = Math.max(0, wave(ts - 13 * hourMillis, dayMillis) + 0.2)
  const presence = noise(seed, 1, ts, 40 * minuteMillis) + 0.9 * day
  const occupied = presence > 0.2
  // Air answers slowly: what people breathe out is averaged by the width of the noise, not by the switch.
  const crowd = clamp(presence, 0, 1.6)
  const batteryLife = (300 + 200 * trait(seed, 2)) * dayMillis
  return {
    temperature: round(
      19.5 + 3 * trait(seed, 3) + 1.1 * day + 0.8 * noise(seed, 4, ts, 3 * hourMillis) + 0.05 * jitter(seed, 5, seq),
      1,
    ),
    humidity: round(45 + 8 * noise(seed, 6, ts, 9 * hourMillis) - 3 * day + 0.3 * jitter(seed, 7, seq), 1),
    co2: round(430 + 420 * crowd + 30 * noise(seed, 8, ts, 10 * minuteMillis) + 4 * jitter(seed, 9, seq), 0),
    illuminance: round(
      Math.max(0, 520 * daylight * (1 + 0.4 * noise(seed, 10, ts, 20 * minuteMillis)) + (occupied ? 180 : 2)),
      0,
    ),
    occupied,
    battery: round(100 - 95 * fraction(ts / batteryLife + trait(seed, 11)), 0),
  }
}

function smartMeter(seed: number, ts: number, seq: number): Sample {
  const meanKilowatts = 0.25 + 0.45 * trait(seed, 1)
  const day = (2 * Math.PI) / dayMillis
  const elapsed = ts - countersSinceMillis
  const morning = 2 * Math.PI * trait(seed, 2)
  const evening = 2 * Math.PI * trait(seed, 3)
  const demand = 1 + 0.5 * Math.sin(day * elapsed + morning) + 0.35 * Math.sin(2 * day * elapsed + evening)
  // The exact integral of `demand`, which never falls below 0.15: that is what makes the counter only grow.
  const demandMillis =
    elapsed -
    (0.5 / day) * Math.cos(day * elapsed + morning) -
    (0.35 / (2 * day)) * Math.cos(2 * day * elapsed + evening)
  const power = round(
    1000 * meanKilowatts * demand * (1 + 0.15 * noise(seed, 4, ts, 4 * minuteMillis)) + 3 * jitter(seed, 5, seq),
    0,
  )
  const voltage = round(230.5 + 2.5 * noise(seed, 6, ts, 15 * minuteMillis) + 0.2 * jitter(seed, 7, seq), 1)
  return {
    power,
    voltage,
    current: round(power / voltage, 2),
    // The grid is one: all meters see the same frequency.
    frequency: round(50 + 0.03 * noise(0, 8, ts, 30 * secondMillis), 2),
    energy_kwh: round(Math.max(0, 2000 + 9000 * trait(seed, 9) + (meanKilowatts * demandMillis) / hourMillis), 3),
    tariff: fraction(ts / dayMillis) * 24 >= 6 && fraction(ts / dayMillis) * 24 < 22 ? 'day' : 'night',
  }
}

function weather(seed: number, ts: number, seq: number): Sample {
  const warmth = wave(ts - 15 * hourMillis, dayMillis)
  const season = wave(ts - 0.54 * yearMillis, yearMillis)
  const cloud = 0.7 * noise(seed, 1, ts, 9 * hourMillis) + 0.4 * noise(seed, 2, ts, 2 * hourMillis)
  const rain = Math.max(0, cloud - 0.4)
  return {
    temperature: round(
      7 +
        6 * trait(seed, 3) +
        8 * season +
        (4 - 2 * cloud) * warmth +
        4 * noise(seed, 4, ts, 3 * dayMillis) +
        0.05 * jitter(seed, 5, seq),
      1,
    ),
    humidity: round(clamp(70 - 12 * warmth + 25 * cloud + 0.5 * jitter(seed, 6, seq), 15, 100), 0),
    pressure: round(1013 + 14 * noise(seed, 7, ts, 4 * dayMillis) + 2 * noise(seed, 8, ts, 11 * hourMillis), 1),
    wind_speed: round(
      Math.max(
        0,
        3.6 +
          2.6 * noise(seed, 9, ts, dayMillis) +
          1.4 * noise(seed, 10, ts, 5 * minuteMillis) +
          0.2 * jitter(seed, 11, seq),
      ),
      1,
    ),
    wind_direction: Math.floor(
      360 *
        fraction(
          trait(seed, 12) + 0.35 * noise(seed, 13, ts, dayMillis) + 0.04 * noise(seed, 14, ts, 10 * minuteMillis),
        ),
    ),
    rain_rate: round(14 * rain, 1),
    condition: rain > 0 ? 'rain' : cloud > 0 ? 'cloudy' : 'clear',
  }
}

function vehicle(seed: number, ts: number, seq: number): Sample {
  const tripMillis = (20 + 20 * trait(seed, 1)) * minuteMillis
  const topSpeed = 45 + 30 * trait(seed, 2)
  const rounds = Math.max(0, (ts - countersSinceMillis) / (2 * tripMillis) + trait(seed, 3))
  // The first half of a round is the trip, the second half the stop.
  const trip = Math.min(1, 2 * fraction(rounds))
  const parked = Math.max(0, 2 * fraction(rounds) - 1)
  const driving = trip < 1
  const tripKilometres = (topSpeed / 2) * (tripMillis / hourMillis)
  // Speed is sin² over the trip, distance its exact integral.
  const kilometres = tripKilometres * (Math.floor(rounds) + trip - Math.sin(2 * Math.PI * trip) / (2 * Math.PI))
  const speed = driving ? topSpeed * Math.sin(Math.PI * trip) ** 2 : 0
  const odometer = 1000 + 20_000 * trait(seed, 4) + kilometres
  const radiusKilometres = 2 + 2 * trait(seed, 5)
  const angle = kilometres / radiusKilometres
  const depotLatitude = 47 + 7 * trait(seed, 6)
  const latitudeDegrees = radiusKilometres / 111.32
  const longitudeDegrees = latitudeDegrees / Math.cos((depotLatitude * Math.PI) / 180)
  return {
    speed: round(Math.max(0, speed + (speed > 5 ? jitter(seed, 7, seq) : 0)), 1),
    odometer: round(odometer, 1),
    latitude: round(depotLatitude + latitudeDegrees * Math.sin(angle), 5),
    longitude: round(6 + 8 * trait(seed, 8) + longitudeDegrees * Math.cos(angle), 5),
    heading: Math.floor(360 * fraction(Math.atan2(-Math.sin(angle), Math.cos(angle)) / (2 * Math.PI))),
    fuel: round(100 - 90 * fraction(odometer / 600), 1),
    engine_temperature: round(driving ? 90 - 55 * Math.exp(-8 * trip) : 35 + 55 * Math.exp(-3 * parked), 0),
    ignition: driving,
    state: driving ? (speed < 3 ? 'idle' : 'driving') : 'parked',
  }
}

const shiftSlots = 24
const slotMillis = 5 * minuteMillis
const machineStates = {
  running: { spindle: 8000, vibration: 2.4, temperature: 58, power: 7.5 },
  idle: { spindle: 0, vibration: 0.3, temperature: 34, power: 0.9 },
  fault: { spindle: 0, vibration: 0.1, temperature: 30, power: 0.4 },
}

/** A device repeats its own shift of 24 slots, so that the parts made so far are a sum over one shift, not over all history. */
function machineState(seed: number, slot: number): keyof typeof machineStates {
  const draw = trait(seed, 100 + slot)
  return slot === 0 || draw < 0.78 ? 'running' : draw < 0.95 ? 'idle' : 'fault'
}

function machine(seed: number, ts: number, seq: number): Sample {
  const slots = Math.max(0, (ts - countersSinceMillis) / slotMillis + shiftSlots * trait(seed, 1))
  const slot = Math.floor(slots) % shiftSlots
  let runningSlots = 0
  let runningBefore = 0
  for (let each = 0; each < shiftSlots; each++) {
    if (machineState(seed, each) !== 'running') continue
    runningSlots++
    if (each < slot) runningBefore++
  }
  const state = machineState(seed, slot)
  const now = machineStates[state]
  const before = machineStates[machineState(seed, (slot + shiftSlots - 1) % shiftSlots)]
  const settled = 1 - Math.exp(-4 * fraction(slots))
  const partsPerSlot = 15 + Math.floor(40 * trait(seed, 2))
  const running = state === 'running'
  const wear = 1 + 0.6 * fraction(ts / (20 * dayMillis) + trait(seed, 3))
  return {
    spindle_speed: running ? round(now.spindle * (1 + 0.02 * noise(seed, 4, ts, 30 * secondMillis)), 0) : 0,
    vibration: round(
      now.vibration * wear * (1 + 0.12 * noise(seed, 5, ts, 20 * secondMillis)) + 0.02 * jitter(seed, 6, seq),
      2,
    ),
    temperature: round(
      before.temperature +
        (now.temperature - before.temperature) * settled +
        1.5 * noise(seed, 7, ts, 2 * minuteMillis),
      1,
    ),
    power: round(now.power * (1 + 0.1 * noise(seed, 8, ts, 15 * secondMillis)) + 0.01 * jitter(seed, 9, seq), 2),
    parts:
      partsPerSlot * (Math.floor(slots / shiftSlots) * runningSlots + runningBefore) +
      (running ? Math.floor(partsPerSlot * fraction(slots)) : 0),
    alarm: state === 'fault',
    state,
  }
}

/** Mixes two 32-bit numbers into one (the finisher of MurmurHash3): fast, and good enough for weather. */
function hash(a: number, b: number): number {
  let mixed = a ^ Math.imul(b, 0x9e3779b1)
  mixed = Math.imul(mixed ^ (mixed >>> 16), 0x85ebca6b)
  mixed = Math.imul(mixed ^ (mixed >>> 13), 0xc2b2ae35)
  return (mixed ^ (mixed >>> 16)) >>> 0
}

/** A fixed property of a device, 0 … 1. */
function trait(seed: number, channel: number): number {
  return hash(seed, channel) / 0x1_0000_0000
}

/** Sensor noise, independent from reading to reading, -1 … 1. */
function jitter(seed: number, channel: number, seq: number): number {
  return hash(hash(seed, channel), seq) / 0x8000_0000 - 1
}

/** Smooth noise, -1 … 1, that turns about once a period. */
function noise(seed: number, channel: number, ts: number, periodMillis: number): number {
  const point = Math.floor(ts / periodMillis)
  const between = ts / periodMillis - point
  const stream = hash(seed, channel)
  const left = hash(stream, point) / 0x8000_0000 - 1
  const right = hash(stream, point + 1) / 0x8000_0000 - 1
  return left + (right - left) * between * between * (3 - 2 * between)
}

/** A cosine whose crest is at the epoch and after every period. */
function wave(ts: number, periodMillis: number): number {
  return Math.cos((2 * Math.PI * ts) / periodMillis)
}

function fraction(x: number): number {
  return x - Math.floor(x)
}

function clamp(x: number, low: number, high: number): number {
  return Math.min(high, Math.max(low, x))
}

/** To `decimals` places, and never -0, which JSON would not keep. */
function round(x: number, decimals: number): number {
  const scale = 10 ** decimals
  return Math.round(x * scale) / scale + 0
}
