#!lua name=onhand_3

-- The gate: one library, one function per atomic operation. Every function is given the run id of the server that its caller
-- is connected to (with its replication id), and uses a location's data only if it was loaded into that run: a restart or a
-- failover, also one there and back, may have kept old data that looks whole.
--
-- Keys of a location, all with the location as hash tag:
--   stock   hash: sku -> ATP before floors (may be negative); '#run', '#epoch', '#delta' are the header, '#loading' is the
--           epoch of a load that is under way, '#loaded' how far it has got. A sku never begins with '#'.
--   floors  hash: sku -> units kept from online promise (absent: 0)
--   claims  hash: claim id -> JSON [[sku, quantity], ...]
--   due     sorted set: claim id by the milliseconds after which the sweeper looks at it (a hint, the ledger's row decides)
-- KEYS holds these four for each location of the call, in this order, unless a function says otherwise; entries name a
-- location by its place, from 1.

local KEYS_PER_LOCATION = 4

local function location(keys, place)
  local first = (place - 1) * KEYS_PER_LOCATION
  return { stock = keys[first + 1], floors = keys[first + 2], claims = keys[first + 3], due = keys[first + 4] }
end

-- The epoch of a location's data if it can be used, else nil.
local function usable_epoch(at, run)
  local header = redis.call('HMGET', at.stock, '#run', '#epoch')
  if header[1] == run then return tonumber(header[2]) end
  return nil
end

local function number_of(value)
  return tonumber(value or '0')
end

-- cjson prints 14 digits: a quantity is printed here, to the unit.
local function exact(quantity)
  return string.format('%.0f', quantity)
end

local function encode_lines(lines)
  local parts = {}
  for i, line in ipairs(lines) do parts[i] = '[' .. cjson.encode(line[1]) .. ',' .. exact(line[2]) .. ']' end
  return '[' .. table.concat(parts, ',') .. ']'
end

local function move(at, lines, sign)
  for _, line in ipairs(lines) do
    redis.call('HINCRBY', at.stock, line[1], exact(sign * line[2]))
  end
end

-- take: ARGV run id, JSON of entries, which are arrays as there are many of them:
--   [ location, claim, due, kind: 'online' | 'till' | 'fact', [[sku, quantity, threshold], ...], frees: claim id or absent ]
-- Each line of an entry must find ATP - floor >= quantity, else nothing of the entry is taken; the till is kept from no floor.
-- A fact takes regardless. `frees` is a claim whose units count as free here, while both are held (a change of quantity).
-- Returns JSON: for each entry the epoch where it was taken, or { epoch, overdrawn = [[sku, units below zero], ...] } for a
-- fact that was not there, or { refused = [[sku, available], ...], epoch }, or { untrusted = true }, or { no_claim = true }
-- where `frees` is not held. A second argument, JSON [[location, claim, due], ...], moves the hints of claims that are held.
local function take(keys, argv)
  local run, entries, results = argv[1], cjson.decode(argv[2]), {}
  local places = {}
  for n, entry in ipairs(entries) do
    local place, claim, due, kind, lines, frees = unpack(entry)
    local at = places[place]
    if not at then
      at = location(keys, place)
      at.epoch = usable_epoch(at, run)
      places[place] = at
    end
    local epoch = at.epoch
    if not epoch then
      results[n] = { untrusted = true }
    else
      local freed, is_held = {}, true
      if frees then
        local old = redis.call('HGET', at.claims, frees)
        if old then
          for _, line in ipairs(cjson.decode(old)) do freed[line[1]] = line[2] end
        else
          is_held = false
        end
      end
      if not is_held then
        results[n] = { no_claim = true }
      elseif redis.call('HEXISTS', at.claims, claim) == 1 then
        results[n] = epoch
      else
        local skus = {}
        for i, line in ipairs(lines) do skus[i] = line[1] end
        local atps = redis.call('HMGET', at.stock, unpack(skus))
        local refused, overdrawn = {}, {}
        if kind == 'fact' then
          for i, line in ipairs(lines) do
            local after = number_of(atps[i]) - line[2]
            if after < 0 then overdrawn[#overdrawn + 1] = { line[1], exact(math.min(line[2], -after)) } end
          end
        else
          local floors = kind == 'online' and redis.call('HMGET', at.floors, unpack(skus)) or {}
          for i, line in ipairs(lines) do
            local room = number_of(atps[i]) + (freed[line[1]] or 0) - number_of(floors[i]) - line[3]
            if room < line[2] then refused[#refused + 1] = { line[1], exact(math.max(0, room)) } end
          end
        end
        if #refused > 0 then
          results[n] = { refused = refused, epoch = epoch }
        else
          move(at, lines, -1)
          redis.call('HSET', at.claims, claim, encode_lines(lines))
          redis.call('ZADD', at.due, exact(due), claim)
          results[n] = #overdrawn > 0 and { epoch = epoch, overdrawn = overdrawn } or epoch
        end
      end
    end
  end
  for _, hint in ipairs(cjson.decode(argv[3])) do
    redis.call('ZADD', location(keys, hint[1]).due, 'XX', exact(hint[3]), hint[2])
  end
  return cjson.encode(results)
end

-- drop: ARGV run id, JSON of entries { location, claim, give_back }
-- Ends claims whose row is closed. Again and late is harmless: a claim that is not held changes nothing.
-- Returns JSON: for each entry its location's epoch, or 0 where the data cannot be used.
local function drop(keys, argv)
  local run, entries, results = argv[1], cjson.decode(argv[2]), {}
  for n, entry in ipairs(entries) do
    local at = location(keys, entry.location)
    local epoch = usable_epoch(at, run)
    results[n] = epoch or 0
    if epoch then
      local lines = redis.call('HGET', at.claims, entry.claim)
      if lines then
        if entry.give_back then move(at, cjson.decode(lines), 1) end
        redis.call('HDEL', at.claims, entry.claim)
        redis.call('ZREM', at.due, entry.claim)
      end
    end
  end
  return cjson.encode(results)
end

-- apply: ARGV run id, JSON of entries { location, deltas = [[number, [[sku, quantity, floor or null], ...]], ...] }
-- Applies delta n only after n - 1, once. Returns JSON: for each entry { epoch, last number applied }, or { 0, 0 }.
local function apply(keys, argv)
  local run, entries, results = argv[1], cjson.decode(argv[2]), {}
  for n, entry in ipairs(entries) do
    local at = location(keys, entry.location)
    local epoch = usable_epoch(at, run)
    if not epoch then
      results[n] = { 0, 0 }
    else
      local applied = number_of(redis.call('HGET', at.stock, '#delta'))
      for _, delta in ipairs(entry.deltas) do
        if delta[1] == applied + 1 then
          for _, line in ipairs(delta[2]) do
            if line[2] ~= 0 then move(at, { line }, 1) end
            if type(line[3]) == 'number' then
              redis.call('HSET', at.floors, line[1], exact(line[3]))
            end
          end
          applied = delta[1]
        end
      end
      redis.call('HSET', at.stock, '#delta', exact(applied))
      results[n] = { epoch, applied }
    end
  end
  return cjson.encode(results)
end

-- read: KEYS stock and floors of each location; ARGV run id, JSON [ lists of skus, [location, list of skus, ...] ]
-- Returns one flat array, which is the cheapest to make: for each pair false where the data cannot be used, else the epoch, and
-- then for each sku its ATP before floors and its floor, as stored: false where there is none.
local function read(keys, argv)
  local run, wanted, flat, size = argv[1], cjson.decode(argv[2]), {}, 0
  local lists, wants = wanted[1], wanted[2]
  for n = 1, #wants, 2 do
    local place, skus = wants[n], lists[wants[n + 1]]
    local stock = redis.call('HMGET', keys[2 * place - 1], '#run', '#epoch', unpack(skus))
    size = size + 1
    if stock[1] == run and stock[2] then
      local floors = redis.call('HMGET', keys[2 * place], unpack(skus))
      flat[size] = stock[2]
      for i = 1, #skus do
        flat[size + 1] = stock[i + 2]
        flat[size + 2] = floors[i]
        size = size + 2
      end
    else
      flat[size] = false
    end
  end
  return flat
end

-- Values in one HSET or ZADD; even, and far below what Lua can unpack.
local VALUES_MAX = 2000

local function set_all(command, key, text)
  local values = cjson.decode(text)
  for first = 1, #values, VALUES_MAX do
    redis.call(command, key, unpack(values, first, math.min(first + VALUES_MAX - 1, #values)))
  end
end

-- load: ARGV run id, JSON { epoch, delta, is_first, is_last }, and four JSON arrays of strings, as the commands take them:
--   stock { sku, atp, ... }, floors { sku, floor, ... }, claims { id, lines, ... }, due { milliseconds, id, ... }
-- Loads one location, in parts: the first closes it, each checks that no younger load has begun, the last publishes it.
-- Only over a lower epoch. '#loaded' counts the parts, so that others see that the load is getting on.
-- Returns 1 if the part was taken, else 0.
local function load(keys, argv)
  local run, part, at = argv[1], cjson.decode(argv[2]), location(keys, 1)
  local epoch = exact(part.epoch)
  if part.is_first then
    local header = redis.call('HMGET', at.stock, '#run', '#epoch', '#loading', '#loading_run')
    -- Data or a load that belongs to another run was never for this server: its epoch says nothing here.
    local published = header[1] == run and number_of(header[2]) or 0
    local loading = header[4] == run and number_of(header[3]) or 0
    if part.epoch <= math.max(published, loading) then return 0 end
    redis.call('UNLINK', at.stock, at.floors, at.claims, at.due)
    redis.call('HSET', at.stock, '#loading', epoch, '#loading_run', run)
  else
    local header = redis.call('HMGET', at.stock, '#loading', '#loading_run')
    if header[1] ~= epoch or header[2] ~= run then return 0 end
  end
  redis.call('HINCRBY', at.stock, '#loaded', 1)
  set_all('HSET', at.stock, argv[3])
  set_all('HSET', at.floors, argv[4])
  set_all('HSET', at.claims, argv[5])
  set_all('ZADD', at.due, argv[6])
  if part.is_last then
    redis.call('HSET', at.stock, '#run', run, '#epoch', epoch, '#delta', exact(part.delta))
    redis.call('HDEL', at.stock, '#loading', '#loading_run', '#loaded')
  end
  return 1
end

local function present(key, fields)
  local values, flat = redis.call('HMGET', key, unpack(fields)), {}
  for i, field in ipairs(fields) do
    if values[i] then
      flat[#flat + 1] = field
      flat[#flat + 1] = values[i]
    end
  end
  return flat
end

-- dump: ARGV run id, JSON array of skus (at most 2000) or null: a location at one moment, all of it or these skus and all claims.
-- Returns { epoch or false, last number applied, stock, floors, claims, due }, flat field-value arrays; due: id, milliseconds.
local function dump(keys, argv)
  local at, skus = location(keys, 1), cjson.decode(argv[2])
  local epoch = usable_epoch(at, argv[1])
  if not epoch then return { false } end
  local is_part = type(skus) == 'table'
  return {
    epoch,
    number_of(redis.call('HGET', at.stock, '#delta')),
    is_part and present(at.stock, skus) or redis.call('HGETALL', at.stock),
    is_part and present(at.floors, skus) or redis.call('HGETALL', at.floors),
    redis.call('HGETALL', at.claims),
    redis.call('ZRANGE', at.due, 0, -1, 'WITHSCORES'),
  }
end

redis.register_function('onhand_3_take', take)
redis.register_function('onhand_3_drop', drop)
redis.register_function('onhand_3_apply', apply)
redis.register_function('onhand_3_load', load)
redis.register_function { function_name = 'onhand_3_read', callback = read, flags = { 'no-writes' } }
redis.register_function { function_name = 'onhand_3_dump', callback = dump, flags = { 'no-writes' } }
