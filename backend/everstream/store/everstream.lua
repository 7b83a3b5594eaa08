#!lua name=everstream_VERSION
-- What a store does atomically: the rules of the log (see core/log.py), one function a verb.
--
-- Keys of a stream, all with the hash tag of its partition:
--   h:STREAM   hash   e epoch table "epoch:start,…" · b base · n leader · m meta · s "1" when ended
--                     x "1" when to be cancelled · f "1" when somebody follows · z the folded sum
--                     t "1" when the leader was named by another node and has yet to adopt it
--   l:STREAM   list   the entries after base
--   o          set    the partition's open streams: those that rest are neither in it nor ended
--   q:REQUEST  string the stream that a request made
-- Beside them, in the partition that its name says:
--   z:RANKING  zset   members with their scores
--   a:ACCOUNT  hash   what somebody has used, and holds
-- Epochs need 53 bits, which a Lua number holds exactly; so do scores.
--
-- Every key runs out.  A stream has the TTL of its kind from its last entry on; while it is open that is looked after
-- now and then only, since a commit must not pay for it: by a probe, and whenever so many entries have come (`stride`).
-- The TTLs, of responses and of sessions, are the first two arguments of every call that may need one, and are read
-- only where it does.
--
-- Of a purged stream only e and s are left, for the TTL of responses: a reign that is later than any there can be.  So
-- the rule that fences older epochs fences every commit, and whoever asks whether a stream has ended turns away.

local OK, FENCED, GAP = 0, 1, 2
local REIGNS_MAX = 256  -- base.REIGNS_MAX
local PURGED = '9007199254740991:0'
local LEASES_KEPT_MS = 3600000
local DARK = '!dark'  -- beside the nodes, which have no such names: until when nobody may be taken for dead

local function clock_ms()
  local t = redis.call('TIME')
  return tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
end

local function table_of(packed)
  local epochs = {}
  for epoch, start in string.gmatch(packed, '(%d+):(%d+)') do
    epochs[#epochs + 1] = {tonumber(epoch), tonumber(start)}
  end
  return epochs
end

-- lease.next_epoch
local function next_epoch(last, tag)
  return math.max(math.floor(last / 1024) + 1, clock_ms()) * 1024 + tag
end

-- lease.agreement
local function agreement(ours, our_tail, theirs, their_tail)
  local common = 0
  for i = 1, math.min(#ours, #theirs) do
    if ours[i][1] ~= theirs[i][1] or ours[i][2] ~= theirs[i][2] then break end
    common = i
  end
  if common == 0 then return 0 end
  local our_end = ours[common + 1] and ours[common + 1][2] or our_tail
  local their_end = theirs[common + 1] and theirs[common + 1][2] or their_tail
  return math.min(our_end, their_end, our_tail, their_tail)
end

-- What a head's key says: "PREFIX:{pN}:" and the stream's id.
local function names(head)
  return string.match(head, '^(.*)h:([^:]*)$')
end

-- `key` lasts at least `ttl_s` from now on.  It is given twice that, so that most calls find it well.
local function outlast(key, ttl_s)
  if redis.call('TTL', key) <= ttl_s then redis.call('EXPIRE', key, 2 * ttl_s) end
end

-- How long the stream is kept whose head this is.  An id has 30 characters; that of a session begins with an s.
local function ttl_of(head, args)
  return tonumber(args[string.byte(head, -30) == 115 and 2 or 1])
end

-- A stream has the TTL of its kind from now on.
local function keep(head, list, args)
  local ttl_s = ttl_of(head, args)
  redis.call('EXPIRE', head, ttl_s)
  redis.call('EXPIRE', list, ttl_s)
  return ttl_s
end

-- As above, and the set of open streams has more than it.
local function prolong(head, list, args)
  outlast(names(head) .. 'o', keep(head, list, args))
end

-- As above, unless that was done lately.
local function keep_up(head, list, args)
  if redis.call('TTL', head) * 10 <= ttl_of(head, args) * 9 then prolong(head, list, args) end
end

-- It is one of the open streams from now on, and lasts.
local function open(head, list, args)
  local tagged, stream = names(head)
  redis.call('SADD', tagged .. 'o', stream)
  prolong(head, list, args)
end

-- KEYS of each write: head, list.  One more may follow, of which a cluster is only to know that it is touched.
-- ARGV: the TTLs, stride, "1" when followers are to be told at once, then for each write: epochs, base, flags, leader, count, meta where the flags have an m, entries…
-- Flags: e, the last of the entries ends the stream; m, the head may have to be made, of this meta.
-- Reply: for each write verdict, tail, and 1 where it is to be cancelled plus 2 where somebody follows.
local function commit(keys, args)
  local replies = {}
  local stride = tonumber(args[3])
  local tells = args[4] == '1'
  local k, a = 1, 5
  while k < #keys do
    local head, list = keys[k], keys[k + 1]
    local epochs, base, flags, leader, count = args[a], tonumber(args[a + 1]), args[a + 2], args[a + 3], tonumber(args[a + 4])
    local first, meta = a + 5, ''
    if flags == 'm' or flags == 'em' then
      meta = args[first]
      first = first + 1
    end
    local now = redis.call('HMGET', head, 'e', 'b', 'x', 'f')
    local verdict, tail = OK, 0
    if not now[1] and base > 0 then
      verdict = GAP
    else
      local bottom = tonumber(now[2] or 0)
      tail = bottom + redis.call('LLEN', list)
      local shared = tail
      local newer = now[1] ~= epochs
      if not now[1] then
        redis.call('HSET', head, 'e', epochs, 'b', 0, 'n', leader, 'm', meta)
        open(head, list, args)
      elseif newer then
        local ours, theirs = table_of(now[1]), table_of(epochs)
        if theirs[#theirs][1] <= ours[#ours][1] then
          verdict = FENCED
        else
          shared = agreement(ours, tail, theirs, base + count)
          -- Ended and folded under another history, which no commit can take back.
          if shared < bottom then verdict = FENCED end
        end
      end
      if verdict == OK and base > shared then
        verdict, tail = GAP, shared
      end
      if verdict == OK then
        if newer and now[1] then
          if shared < tail then
            if shared == bottom then redis.call('DEL', list) else redis.call('LTRIM', list, 0, shared - bottom - 1) end
            tail = shared
          end
          redis.call('HSET', head, 'e', epochs, 'n', leader)
          redis.call('HDEL', head, 's', 't')
          open(head, list, args)
        end
        local skip = tail - base
        if skip < count then
          local before = tail
          tail = bottom + redis.call('RPUSH', list, unpack(args, first + skip, first + count - 1))
          if before == bottom then redis.call('EXPIRE', list, ttl_of(head, args)) end
          if tail % stride < tail - before then keep_up(head, list, args) end
        elseif count == 0 then
          keep_up(head, list, args)
        else
          prolong(head, list, args)  -- a repeat: its caller may ask replicas what they have of what *it* wrote
        end
        if flags == 'e' or flags == 'em' then
          local tagged, stream = names(head)
          redis.call('HSET', head, 's', '1')
          redis.call('SREM', tagged .. 'o', stream)
          keep(head, list, args)
        end
        if now[4] and count > 0 and tells then
          local tagged, stream = names(head)
          local push = {stream, epochs, base, {unpack(args, first, first + count - 1)}}
          redis.call('SPUBLISH', tagged .. 'f:' .. stream, cmsgpack.pack(push))
        end
      end
    end
    replies[#replies + 1] = verdict
    replies[#replies + 1] = tail
    replies[#replies + 1] = (now[3] and 1 or 0) + (now[4] and 2 or 0)
    k, a = k + 2, first + count
  end
  return replies
end

-- KEYS: head, list, open, request key (or none).
-- ARGV: the TTLs, stream, leader, tag, meta, request_ttl_s, prefix of heads, "1" when the leader has to adopt it.
-- Reply: stream, epochs, fresh.  The stream a request made lies in the request's partition.  A purged one is forgotten
-- by its request, but its name stays taken, under an epoch that nobody can lead it in.
local function create(keys, args)
  local stream, node, tag, meta = args[3], args[4], tonumber(args[5]), args[6]
  if keys[4] then
    local made = redis.call('GET', keys[4])
    if made then
      local epochs = redis.call('HGET', args[8] .. made, 'e')
      if epochs and epochs ~= PURGED then return {made, epochs, 0} end
    end
  end
  local there = redis.call('HGET', keys[1], 'e')
  if there then return {stream, there == PURGED and '0:0' or there, 0} end
  local epochs = string.format('%.0f:0', next_epoch(0, tag))
  redis.call('HSET', keys[1], 'e', epochs, 'b', 0, 'n', node, 'm', meta)
  if args[9] == '1' then redis.call('HSET', keys[1], 't', '1') end
  open(keys[1], keys[2], args)
  if keys[4] then redis.call('SET', keys[4], stream, 'EX', tonumber(args[7])) end
  return {stream, epochs, 1}
end

-- KEYS: head, list.  ARGV: after.  Reply: head fields e b n m s x t z, tail, after, entries; or nothing.
local function read(keys, args)
  local h = redis.call('HMGET', keys[1], 'e', 'b', 'n', 'm', 's', 'x', 't', 'z')
  if not h[1] or h[1] == PURGED then return {} end
  local bottom = tonumber(h[2] or 0)
  local tail = bottom + redis.call('LLEN', keys[2])
  local after = math.min(math.max(tonumber(args[1]), bottom), tail)
  local entries = {}
  if after < tail then entries = redis.call('LRANGE', keys[2], after - bottom, -1) end
  local ended, cancelled, handed = h[5] and 1 or 0, h[6] and 1 or 0, h[7] and 1 or 0
  return {h[1], bottom, h[3] or '', h[4] or '', ended, cancelled, handed, h[8] or '', tail, after, entries}
end

-- KEYS: head, list, open.  ARGV: the TTLs, expected leader, node, tag.
-- Reply as of read; nothing where somebody else was faster.
local function adopt(keys, args)
  local h = redis.call('HMGET', keys[1], 'e', 'n', 's', 'b', 't')
  if not h[1] or h[3] or h[2] ~= args[3] then return {} end
  local epochs = table_of(h[1])
  local tail = tonumber(h[4] or 0) + redis.call('LLEN', keys[2])
  local epoch = next_epoch(epochs[#epochs][1], tonumber(args[5]))
  -- A reign that begins past the tail has no entry left, and its start would say that older ones reach further.
  -- Nor has the last one, where its leader was only named, or went before it had said a word: it was no attempt.
  local last = epochs[#epochs]
  local skipped = h[5] and last[2] == tail and last or nil
  local reigns = {}
  for _, reign in ipairs(epochs) do
    if reign[2] <= tail and reign ~= skipped then
      reigns[#reigns + 1] = reign
    end
  end
  reigns[#reigns + 1] = {epoch, tail}
  -- Of more than that the oldest are forgotten, and the next one has their entries too.
  local first = math.max(#reigns - REIGNS_MAX, 0) + 1
  local packed = {}
  for i = first, #reigns do
    local start = i == first and i > 1 and 0 or reigns[i][2]
    packed[#packed + 1] = string.format('%.0f:%.0f', reigns[i][1], start)
  end
  redis.call('HSET', keys[1], 'e', table.concat(packed, ','), 'n', args[4])
  open(keys[1], keys[2], args)
  local state = read(keys, {'0'})
  redis.call('HDEL', keys[1], 't')
  return state
end

-- Whether the heir was named, of a stream that this node leads and of which the store has all.
local function named(keys, node, epoch, tail, heir)
  local h = redis.call('HMGET', keys[1], 'e', 'n', 's', 'b', 't')
  if not h[1] or h[3] or string.match(h[1], '(%d+):%d+$') ~= epoch then return false end
  if h[2] ~= node and not h[5] then return false end
  if tonumber(h[4] or 0) + redis.call('LLEN', keys[2]) ~= tonumber(tail) then return false end
  redis.call('HSET', keys[1], 'n', heir, 't', '1')
  return true
end

-- KEYS: head, list, open.  ARGV: the TTLs, node, its epoch, its tail, the heir.  Reply: 1 where it was done.
local function hand_over(keys, args)
  if not named(keys, args[3], args[4], args[5], args[6]) then return 0 end
  open(keys[1], keys[2], args)  -- it may have been put to rest before
  return 1
end

-- KEYS: head, list, open.  ARGV: the TTLs, node, its epoch, its tail.  Reply: 1 where it was done.
local function rest(keys, args)
  if not named(keys, args[3], args[4], args[5], '') then return 0 end
  local _, stream = names(keys[1])
  redis.call('SREM', keys[3], stream)
  keep(keys[1], keys[2], args)
  return 1
end

-- KEYS: head and list of each stream, open.  ARGV: the TTLs.  What is left in a stream's place has that of responses.
local function purge(keys, args)
  for k = 1, #keys - 1, 2 do
    local _, stream = names(keys[k])
    redis.call('DEL', keys[k], keys[k + 1])
    redis.call('HSET', keys[k], 'e', PURGED, 's', '1')
    redis.call('EXPIRE', keys[k], tonumber(args[1]))
    redis.call('SREM', keys[#keys], stream)
  end
  return 1
end

-- KEYS: head, list.  Reply as of read, without entries.
local function mark_cancelled(keys, args)
  local h = redis.call('HMGET', keys[1], 'e', 's')
  if h[1] and not h[2] then redis.call('HSET', keys[1], 'x', '1') end
  return read(keys, {'9007199254740991'})
end

-- KEYS: head, list.  ARGV: tail, the sum.  Reply: 1 where it was done.
local function fold(keys, args)
  local h = redis.call('HMGET', keys[1], 'b', 's', 'e')
  if not h[2] or h[3] == PURGED then return 0 end
  local tail = tonumber(h[1] or 0) + redis.call('LLEN', keys[2])
  if tail ~= tonumber(args[1]) then return 0 end
  redis.call('HSET', keys[1], 'b', tail, 'z', args[2])
  redis.call('DEL', keys[2])
  return 1
end

-- KEYS: head.  From now on commits are pushed.
local function follow(keys, args)
  local epochs = redis.call('HGET', keys[1], 'e')
  if not epochs or epochs == PURGED then return 0 end
  return redis.call('HSET', keys[1], 'f', '1')
end

-- KEYS: nodes.  ARGV: node, lease_ms, the longest TTL of a stream.  Reply: 0 while nobody may be taken for dead.
-- Leases are a sorted set: member node, score the time it runs out.  It is kept for as long as any stream, so that
-- who comes back to a store that was away for long still sees that it was.
local function renew(keys, args)
  local now, lease_ms = clock_ms(), tonumber(args[2])
  local last = redis.call('ZREVRANGE', keys[1], 0, 1, 'WITHSCORES')
  local newest = tonumber(last[1] == DARK and last[4] or last[1] ~= DARK and last[2] or nil)
  if newest and newest <= now then redis.call('ZADD', keys[1], now + lease_ms, DARK) end
  redis.call('ZADD', keys[1], now + lease_ms, args[1])
  redis.call('ZREMRANGEBYSCORE', keys[1], '-inf', now - LEASES_KEPT_MS)
  outlast(keys[1], tonumber(args[3]))
  local dark = redis.call('ZSCORE', keys[1], DARK)
  return dark and tonumber(dark) > now and 0 or 1
end

-- KEYS: nodes.  Reply: those whose lease has not run out.
local function nodes(keys, args)
  local alive = {}
  for _, node in ipairs(redis.call('ZRANGEBYSCORE', keys[1], '(' .. string.format('%.0f', clock_ms()), '+inf')) do
    if node ~= DARK then alive[#alive + 1] = node end
  end
  return alive
end

-- KEYS: open sets.  ARGV: for each the prefix of its heads.  Reply: stream, leader, stream, leader, …
local function open_streams(keys, args)
  local found = {}
  for i = 1, #keys do
    for _, stream in ipairs(redis.call('SMEMBERS', keys[i])) do
      local h = redis.call('HMGET', args[i] .. stream, 'n', 's')
      if h[1] and not h[2] then
        found[#found + 1] = stream
        found[#found + 1] = h[1]
      else
        redis.call('SREM', keys[i], stream)
      end
    end
  end
  return found
end

-- KEYS: ranking.  ARGV: member, score, ttl_s.
local function rank(keys, args)
  redis.call('ZADD', keys[1], 'GT', args[2], args[1])
  redis.call('EXPIRE', keys[1], tonumber(args[3]))
  return 1
end

-- KEYS: ranking.  ARGV: member, ttl_s.
local function unrank(keys, args)
  redis.call('ZREM', keys[1], args[1])
  redis.call('EXPIRE', keys[1], tonumber(args[2]))
  return 1
end

-- By their bytes, as the server orders members; Lua would ask the machine's language.
local function precedes(one, other)
  for i = 1, math.min(#one, #other) do
    local a, b = string.byte(one, i), string.byte(other, i)
    if a ~= b then return a < b end
  end
  return #one < #other
end

-- KEYS: ranking.  ARGV: limit, and for a later page the score and the member after which it begins.
-- Reply: member, score, member, score, …  Where the page begins is found by halves, so that it costs the same wherever
-- it is and however many have one score; the member itself may be gone by now.
local function ranked(keys, args)
  local limit, score, member = tonumber(args[1]), tonumber(args[2]), args[3]
  if limit < 1 then return {} end
  local function comes_after(place)
    local found = redis.call('ZREVRANGE', keys[1], place, place, 'WITHSCORES')
    if not found[1] then return true end
    local its = tonumber(found[2])
    return its < score or its == score and precedes(found[1], member)
  end
  local start = 0
  if score and not comes_after(0) then
    local before, after = 0, 1
    while not comes_after(after) do before, after = after, 2 * after end
    while after - before > 1 do
      local middle = math.floor((before + after) / 2)
      if comes_after(middle) then after = middle else before = middle end
    end
    start = after
  end
  return redis.call('ZREVRANGE', keys[1], start, start + limit - 1, 'WITHSCORES')
end

-- core/quota.py.  An account is a hash: "u:NAME" is "span used", "h:HOLDER" is "until name span amount name span …".
-- Names are of a-z, so that a space can stand between.
local function used_of(packed, span)
  if not packed then return 0 end
  local began, amount = string.match(packed, '^(%S+) (%d+)$')
  return tonumber(began) == span and tonumber(amount) or 0
end

-- KEYS: account.  ARGV: holder, ttl_ms, and for each claim name, amount, least, most, span_ms.
-- Reply: 1 and the amounts granted, or 0, the name that is spent, and when there is more.  A holder that is known
-- keeps what it has, for ttl_ms from now at least.
local function claim(keys, args)
  local holder, ttl_ms, now = args[1], tonumber(args[2]), clock_ms()
  local fields = redis.call('HGETALL', keys[1])
  local used, held, ours, known = {}, {}, nil, nil
  for i = 1, #fields, 2 do
    local kind, name = string.sub(fields[i], 1, 2), string.sub(fields[i], 3)
    if kind == 'u:' then
      used[name] = fields[i + 1]
    elseif tonumber(string.match(fields[i + 1], '^%d+')) <= now then
      redis.call('HDEL', keys[1], fields[i])
    else
      if name == holder then ours, known = {1}, fields[i + 1] end
      for what, span, amount in string.gmatch(fields[i + 1], ' (%l+) (%S+) (%d+)') do
        if name == holder then ours[#ours + 1] = tonumber(amount) end
        if span == '-1' then held[what] = (held[what] or 0) + tonumber(amount) end
      end
    end
  end
  if ours then
    local until_ms, grants = string.match(known, '^(%d+)(.*)$')
    if tonumber(until_ms) < now + ttl_ms then
      redis.call('HSET', keys[1], 'h:' .. holder, string.format('%.0f', now + ttl_ms) .. grants)
    end
    if redis.call('PTTL', keys[1]) < ttl_ms then redis.call('PEXPIRE', keys[1], ttl_ms) end
    return ours
  end
  local reply, grants, keep_ms = {1}, {}, ttl_ms
  for i = 3, #args, 5 do
    local name, span_ms = args[i], tonumber(args[i + 4])
    local span = span_ms > 0 and now - now % span_ms or -1
    local before = span == -1 and (held[name] or 0) or used_of(used[name], span)
    local amount = math.max(0, math.min(tonumber(args[i + 1]), tonumber(args[i + 3]) - before))
    if amount < tonumber(args[i + 2]) then
      return {0, name, span_ms > 0 and span + span_ms - now or 0}
    end
    reply[#reply + 1] = amount
    grants[#grants + 1] = {name, span, amount, before}
    keep_ms = math.max(keep_ms, span_ms)
  end
  if holder == '' then return reply end
  local said = {string.format('%.0f', now + ttl_ms)}
  for _, grant in ipairs(grants) do
    local name, span, amount, before = grant[1], string.format('%.0f', grant[2]), grant[3], grant[4]
    said[#said + 1] = name .. ' ' .. span .. ' ' .. string.format('%.0f', amount)
    if grant[2] ~= -1 then
      redis.call('HSET', keys[1], 'u:' .. name, span .. ' ' .. string.format('%.0f', before + amount))
    end
  end
  redis.call('HSET', keys[1], 'h:' .. holder, table.concat(said, ' '))
  if redis.call('PTTL', keys[1]) < keep_ms then redis.call('PEXPIRE', keys[1], keep_ms) end
  return reply
end

-- KEYS: account.  ARGV: holder, and name, amount, … as used.  Reply: 1 where the holder was known.
local function settle(keys, args)
  local said = redis.call('HGET', keys[1], 'h:' .. args[1])
  if not said then return 0 end
  local really = {}
  for i = 2, #args, 2 do really[args[i]] = tonumber(args[i + 1]) end
  for name, began, granted in string.gmatch(said, ' (%l+) (%S+) (%d+)') do
    local packed, span = redis.call('HGET', keys[1], 'u:' .. name), tonumber(began)
    if span ~= -1 and packed and tonumber(string.match(packed, '^%S+')) == span then
      local amount = math.max(0, used_of(packed, span) - tonumber(granted) + (really[name] or tonumber(granted)))
      redis.call('HSET', keys[1], 'u:' .. name, began .. ' ' .. string.format('%.0f', amount))
    end
  end
  redis.call('HDEL', keys[1], 'h:' .. args[1])
  return 1
end

redis.register_function('es_commit_VERSION', commit)
redis.register_function('es_create_VERSION', create)
redis.register_function{function_name = 'es_read_VERSION', callback = read, flags = {'no-writes'}}
redis.register_function('es_adopt_VERSION', adopt)
redis.register_function('es_hand_over_VERSION', hand_over)
redis.register_function('es_rest_VERSION', rest)
redis.register_function('es_purge_VERSION', purge)
redis.register_function('es_mark_cancelled_VERSION', mark_cancelled)
redis.register_function('es_fold_VERSION', fold)
redis.register_function('es_follow_VERSION', follow)
redis.register_function('es_renew_VERSION', renew)
redis.register_function{function_name = 'es_nodes_VERSION', callback = nodes, flags = {'no-writes'}}
redis.register_function('es_open_streams_VERSION', open_streams)
redis.register_function('es_rank_VERSION', rank)
redis.register_function('es_unrank_VERSION', unrank)
redis.register_function{function_name = 'es_ranked_VERSION', callback = ranked, flags = {'no-writes'}}
redis.register_function('es_claim_VERSION', claim)
redis.register_function('es_settle_VERSION', settle)
