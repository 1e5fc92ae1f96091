package firewall

import (
	"net/netip"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/capsuled/capsuled/firewall/policy"
)

// answerSeconds is how long an asker may keep an answer: a policy may be another soon.
const answerSeconds = 60

// answer is the reply to one message, nil for none: nobody who has no binding is answered, nor what is no question,
// lest two servers talk to each other for ever.
func (r *Resolver) answer(message []byte, from netip.Addr, limit int) []byte {
	v := r.chains.seen.Load()
	b, ok := v.addresses[from]
	if !ok {
		r.count("stranger")
		return nil
	}
	if !r.quota.take(from, time.Now()) {
		r.count("limited")
		return nil
	}
	reply, result := reply(message, v.policies[b.Policy].Policy, limit)
	r.count(result)
	return reply
}

// reply answers a message by a policy, in no more than limit bytes. It is pure. The result is for the metrics.
func reply(message []byte, p policy.Policy, limit int) (_ []byte, result string) {
	var parser dnsmessage.Parser
	asked, err := parser.Start(message)
	if err != nil || asked.Response {
		return nil, "malformed"
	}
	h := dnsmessage.Header{ID: asked.ID, Response: true, OpCode: asked.OpCode, RecursionDesired: asked.RecursionDesired}
	questions, err := parser.AllQuestions()
	switch {
	case asked.OpCode != 0:
		h.RCode = dnsmessage.RCodeNotImplemented
		return pack(h, nil, nil), "refused"
	case err != nil || len(questions) != 1:
		h.RCode = dnsmessage.RCodeFormatError
		return pack(h, nil, nil), "malformed"
	case p.DNS != policy.Static || questions[0].Class != dnsmessage.ClassINET:
		h.RCode = dnsmessage.RCodeRefused
		return pack(h, questions, nil), "refused"
	}
	h.Authoritative = true
	name := strings.ToLower(strings.TrimSuffix(questions[0].Name.String(), "."))
	addresses, known := p.Hosts[name]
	switch {
	case !known && !above(name, p.Hosts):
		h.RCode = dnsmessage.RCodeNameError
		return pack(h, questions, nil), "unknown"
	case questions[0].Type != dnsmessage.TypeA && questions[0].Type != dnsmessage.TypeALL || len(addresses) == 0:
		return pack(h, questions, nil), "no_data"
	}
	all := pack(h, questions, addresses)
	if len(all) > limit {
		h.Truncated = true // the asker may ask again by TCP
		all = pack(h, questions, nil)
	}
	return all, "answered"
}

// above says whether some listed name ends in this one: then it exists, and has no data (RFC 8020).
func above(name string, hosts map[string][]netip.Addr) bool {
	for h := range hosts {
		if strings.HasSuffix(h, "."+name) {
			return true
		}
	}
	return false
}

// pack makes a reply; nil if it cannot be one, which a name that was read never is.
func pack(h dnsmessage.Header, questions []dnsmessage.Question, addresses []netip.Addr) []byte {
	m := dnsmessage.Message{Header: h, Questions: questions}
	for _, a := range addresses {
		if a.Is4() {
			m.Answers = append(m.Answers, dnsmessage.Resource{
				Header: dnsmessage.ResourceHeader{Name: questions[0].Name, Class: dnsmessage.ClassINET, TTL: answerSeconds},
				Body:   &dnsmessage.AResource{A: a.As4()},
			})
		}
	}
	b, err := m.Pack()
	if err != nil {
		return nil
	}
	return b
}
