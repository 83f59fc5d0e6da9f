// The library's creators: their fields, and how they come beside those of others.
#include <set>

#include "harness.h"

namespace {

#if NV_TENSORRT_MAJOR > 8
using AnyCreator = nvinfer1::IPluginCreatorV3One;
using Made = nvinfer1::IPluginV3;
#else
using AnyCreator = nvinfer1::IPluginCreator;
using Made = nvinfer1::IPluginV2;
#endif

// Of another library, for all that ours can see: it is in this program.
class Another final : public AnyCreator {
 public:
  Another(const char* name, const char* version, const char* space) : name_(name), version_(version), space_(space) {}
  const char* getPluginName() const noexcept override { return name_; }
  const char* getPluginVersion() const noexcept override { return version_; }
  const char* getPluginNamespace() const noexcept override { return space_; }
  const nvinfer1::PluginFieldCollection* getFieldNames() noexcept override { return &none_; }
#if NV_TENSORRT_MAJOR > 8
  Made* createPlugin(const char*, const nvinfer1::PluginFieldCollection*, nvinfer1::TensorRTPhase) noexcept override {
    return nullptr;
  }
#else
  void setPluginNamespace(const char*) noexcept override {}
  Made* createPlugin(const char*, const nvinfer1::PluginFieldCollection*) noexcept override { return nullptr; }
  Made* deserializePlugin(const char*, const void*, size_t) noexcept override { return nullptr; }
#endif

 private:
  const char *name_, *version_, *space_;
  nvinfer1::PluginFieldCollection none_ = {};
};

constexpr char kTaken[] = "plugin '::Linear, version 1', is already registered with TensorRT by ";

std::set<std::string> ops_of_cases() {
  std::set<std::string> names;
  for (const Case& call : cases()) names.insert(call.op);
  return names;
}

bool begins(const std::string& text, const std::string& start) { return text.compare(0, start.size(), start) == 0; }

}  // namespace

Library load_beside_another(const std::string& path) {
  static Another same("Linear", "1", ""), newer("Embedding", "2", ""), elsewhere("RmsNorm", "1", "theirs");
  registry().creators = {&newer, &same, &elsewhere};
  Library library(path);
  const std::string said = take_log(), conflict = library.ask("seqexport_tensorrt_conflict");
  expect(begins(said, std::string("seqexport: ") + kTaken) && said.find('\n') == std::string::npos,
         "a plugin of others under a name, version and namespace of ours is told, and no other", said);
  expect("seqexport: " + conflict == said && conflict.find("harness") != std::string::npos,
         "the library names the one whose plugin it is", conflict);
  expect(registry().creators.size() == 3 + ops_of_cases().size() - 1, "all but one registered themselves");
  registry().deregisterCreator(same);
  expect(library.ask("seqexport_tensorrt_conflict").empty(), "no plugin of others is in the way any more");
  library.take_creators();
  expect(registry().creators.size() == 2, "those that it gives TensorRT are not registered any more");
  CreatorInterface* const others[] = {&same, &newer};
  registry().creators = {others, others + 2};
  expect(begins(library.ask("seqexport_tensorrt_conflict"), kTaken), "a plugin that came later is in the way too");
  registry().creators.clear();
  return library;
}

void check_fields(const Library& library) {
  std::vector<std::string> names;
  for (const auto& creator : library.creators()) names.push_back(creator->name());
  expect(std::set<std::string>(names.begin(), names.end()) == ops_of_cases(), "a creator for each op of the cases",
         joined(names));
  for (const auto& creator : library.creators()) {
    const nvinfer1::PluginFieldCollection* fields = creator->fields();
    std::vector<std::string> found;
    for (int i = 0; i < fields->nbFields; ++i) found.push_back(fields->fields[i].name);
    const std::vector<std::string> last = {"inputs", "outputs", "T"};
    bool all = found.size() >= last.size() && std::equal(last.begin(), last.end(), found.end() - 3);
    for (const Case& call : cases()) {
      if (call.op != creator->name()) continue;
      for (const auto& attribute : call.attributes) {
        all = all && std::find(found.begin(), found.end(), attribute.first) != found.end();
      }
    }
    expect(all, creator->name() + ": its fields", joined(found));
    const nvinfer1::PluginField empty("T", nullptr, nvinfer1::PluginFieldType::kCHAR, 8);
    const nvinfer1::PluginFieldCollection one = {1, &empty};
    const bool refused = !creator->create(&one);
    const std::string said = take_log();
    expect(refused && said.find("attribute 'T' has no value") != std::string::npos,
           creator->name() + ": a field without a value is refused", said);
    expect(creator->create(nullptr) != nullptr, creator->name() + ": created without fields", take_log());
  }
}
