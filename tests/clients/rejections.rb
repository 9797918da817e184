# Sends requests with Net::HTTP and prints what a client reads of each response. Standard input: a JSON list of requests.
require "json"
require "net/http"

# REST's error is read as manageiq-api-client reads it (ManageIQ::API::Client::Error#update).
def error_of(path, response)
  return response.body unless response.body && response["content-type"].start_with?("application/json")

  members = JSON.parse(response.body)
  path.start_with?("/api") ? members.fetch("error").slice("kind", "message", "klass") : members.fetch("errors")
end

url = URI(ARGV.fetch(0))
answers = Net::HTTP.start(url.host, url.port, nil) do |http|
  JSON.parse($stdin.read).map do |given|
    method, path, headers, body = given.values_at("method", "path", "headers", "body")
    request = Net::HTTPGenericRequest.new(method, !body.nil?, method != "HEAD", path, headers)
    request.body = body
    response = http.request(request)
    {
      status: response.code.to_i,
      type: response["content-type"],
      retry_after: response["retry-after"],
      error: error_of(path, response)
    }
  end
end
puts JSON.generate(answers)
