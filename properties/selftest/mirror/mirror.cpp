// "mirror": a second device made of host memory, for machines that have none.
//
// Its memory is real, but its addresses are not the host's: every pointer carries the device's
// number in bits that no address has, so that code which reads device memory from the host dies
// at once, as it does with CUDA. Kernels are the CPU's: a boxed fallback gives them aliases of the
// arguments (CPU tensors over the same bytes), and what they return becomes a tensor of the device:
// a view where it shares an argument's storage, its own memory otherwise.
//
// MIRROR_FAULT breaks it (mirror_faults.py lists how); MIRROR_ASYNC=1 makes non-blocking copies to pinned
// host memory, and the errors of a kernel, arrive only when the device is synchronized.

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/SparseTensorImpl.h>
#include <ATen/autocast_mode.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/TensorFactories.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/_sparse_coo_tensor_with_dims_and_tensors_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <array>
#include <atomic>
#include <csignal>
#include <cstdlib>
#include <fcntl.h>
#include <functional>
#include <mutex>
#include <set>
#include <thread>
#include <unistd.h>

namespace {

using at::Device;
using at::Tensor;
using c10::DeviceIndex;
using c10::DispatchKey;
using c10::DispatchKeySet;
using c10::IValue;
constexpr auto KIND = c10::DeviceType::PrivateUse1;
constexpr int MOST = 8;  // devices
constexpr int SHIFT = 56;

long setting(const char* name, long otherwise) {
  const char* given = std::getenv(name);
  return given ? std::atol(given) : otherwise;
}

const DeviceIndex COUNT = std::min<long>(MOST, setting("MIRROR_DEVICES", 2));
const size_t MEMORY = size_t(setting("MIRROR_MIB", 8192)) << 20;
const bool ASYNC = setting("MIRROR_ASYNC", 0);
const std::string FAULT = std::getenv("MIRROR_FAULT") ? std::getenv("MIRROR_FAULT") : "";
const char* const AT = std::getenv("MIRROR_FAULT_AT") ? std::getenv("MIRROR_FAULT_AT") : "mse_loss";
const char* const ONCE = std::getenv("MIRROR_FAULT_ONCE");  // a file that marks that it has happened
thread_local DeviceIndex current = 0;

void check_index(DeviceIndex index) {
  TORCH_CHECK(index >= 0 && index < COUNT, "mirror: no device number ", int(index), "; there are ", int(COUNT));
}

// --- what is still to happen, and what has gone wrong for good

std::mutex mutex;
std::vector<std::function<void()>> pending;
std::array<std::atomic<bool>, MOST> poisoned{};

void check_alive(DeviceIndex index) {
  TORCH_CHECK(!poisoned[index], "mirror error: device-side assert triggered on mirror:", int(index));
}

void synchronize(DeviceIndex index) {
  std::vector<std::function<void()>> now;
  {
    const std::lock_guard<std::mutex> guard(mutex);
    now.swap(pending);
  }
  for (const auto& one : now) one();
  check_alive(index);
}

// --- memory

void* away(void* host, DeviceIndex index) {
  return host ? reinterpret_cast<void*>(uintptr_t(host) | (uintptr_t(index) + 1) << SHIFT) : nullptr;
}
void* home(const void* pointer) {
  return reinterpret_cast<void*>(uintptr_t(pointer) & ((uintptr_t(1) << SHIFT) - 1));
}

std::array<std::atomic<size_t>, MOST> allocated{};
struct Block {
  size_t size;
  DeviceIndex index;
  void* memory;
};
void free_block(void* context) {
  auto* block = static_cast<Block*>(context);
  allocated[block->index] -= block->size;
  std::free(block->memory);
  delete block;
}

struct Memory final : at::Allocator {
  at::DataPtr allocate(size_t size) override {
    const Device device(KIND, current);
    check_alive(current);
    if (!size) return {nullptr, nullptr, &c10::detail::deleteNothing, device};
    if (allocated[current] + size > MEMORY)
      throw c10::OutOfMemoryError(
          {__func__, __FILE__, uint32_t(__LINE__)},
          c10::str("mirror out of memory. Tried to allocate ", size, " bytes on mirror:", int(current)));
    allocated[current] += size;
    auto* block = new Block{size, current, nullptr};
    if (posix_memalign(&block->memory, 64, size)) TORCH_CHECK(false, "mirror: the host has no memory left");
    return {away(block->memory, current), block, &free_block, device};
  }
  void copy_data(void* to, const void* from, size_t size) const override {
    std::memcpy(home(to), home(from), size);
  }
};
Memory memory;

std::set<const void*> pins;
void unpin(void* pointer) {
  const std::lock_guard<std::mutex> guard(mutex);
  pins.erase(pointer);
  std::free(pointer);
}
struct Pinned final : at::Allocator {
  at::DataPtr allocate(size_t size) override {
    if (!size) return {nullptr, nullptr, &c10::detail::deleteNothing, Device(c10::DeviceType::CPU)};
    void* pointer = nullptr;
    if (posix_memalign(&pointer, 64, size)) TORCH_CHECK(false, "mirror: the host has no memory left");
    const std::lock_guard<std::mutex> guard(mutex);
    pins.insert(pointer);
    return {pointer, pointer, &unpin, Device(c10::DeviceType::CPU)};
  }
  void copy_data(void* to, const void* from, size_t size) const override { std::memcpy(to, from, size); }
};
Pinned pinned;
bool is_pinned(const void* pointer) {
  const std::lock_guard<std::mutex> guard(mutex);
  return pins.count(pointer);
}

void free_storage(void* context) { delete static_cast<c10::Storage*>(context); }

// A host storage as one of the device: the same bytes.
at::DataPtr adopted(const c10::Storage& host, Device device) {
  return {away(host.mutable_data(), device.index()), new c10::Storage(host), &free_storage, device};
}

// --- random numbers: a stream of its own for each device, which seeding the CPU does not move

struct Random final : c10::GeneratorImpl {
  at::Generator host;
  explicit Random(DeviceIndex index)
      : GeneratorImpl(Device(KIND, index), DispatchKeySet(DispatchKey::PrivateUse1)),
        host(at::detail::createCPUGenerator(c10::default_rng_seed_val + index)) {}
  static c10::DeviceType device_type() { return KIND; }
  void set_current_seed(uint64_t seed) override { host.set_current_seed(seed); }
  void set_offset(uint64_t offset) override { host.set_offset(offset); }
  uint64_t get_offset() const override { return host.get_offset(); }
  uint64_t current_seed() const override { return host.current_seed(); }
  uint64_t seed() override { return host.seed(); }
  void set_state(const c10::TensorImpl& state) override { host.unsafeGetGeneratorImpl()->set_state(state); }
  c10::intrusive_ptr<c10::TensorImpl> get_state() const override {
    return host.unsafeGetGeneratorImpl()->get_state();
  }
  GeneratorImpl* clone_impl() const override {
    auto* made = new Random(device_.index());
    made->host = host.clone();
    return made;
  }
};

const at::Generator& generator_of(DeviceIndex index) {
  static const auto all = [] {
    std::vector<at::Generator> made;
    for (DeviceIndex i = 0; i < COUNT; ++i) made.push_back(at::make_generator<Random>(i));
    return made;
  }();
  index = index < 0 ? current : index;
  check_index(index);
  return all[index];
}

// --- what torch asks of a device

struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return KIND; }
  Device getDevice() const override { return Device(KIND, current); }
  Device exchangeDevice(Device to) const override {
    const Device was = getDevice();
    setDevice(to);
    return was;
  }
  void setDevice(Device to) const override {
    if (!to.has_index()) return;
    check_index(to.index());
    current = to.index();
  }
  void uncheckedSetDevice(Device to) const noexcept override {
    if (to.has_index() && to.index() < COUNT) current = to.index();
  }
  c10::Stream stream_of(Device device) const {
    return c10::Stream(c10::Stream::DEFAULT, device.has_index() ? device : getDevice());
  }
  c10::Stream getStream(Device device) const noexcept override { return stream_of(device); }
  c10::Stream getDefaultStream(Device device) const override { return stream_of(device); }
  c10::Stream exchangeStream(c10::Stream stream) const noexcept override { return stream_of(stream.device()); }
  DeviceIndex deviceCount() const noexcept override { return COUNT; }
  // every kernel has ended when it returns
  void record(void**, const c10::Stream&, const DeviceIndex, const c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  bool queryStream(const c10::Stream&) const override { return true; }
  void synchronizeStream(const c10::Stream& stream) const override { synchronize(stream.device_index()); }
  void synchronizeEvent(void*) const override { synchronize(current); }
  void synchronizeDevice(const DeviceIndex index) const { synchronize(index); }
};
C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard)

// Some of these are virtual in some versions of torch only: hence no "override".
struct Hooks final : at::PrivateUse1HooksInterface {
  void init() const {}
  bool isBuilt() const { return true; }
  bool isAvailable() const { return COUNT > 0; }
  bool hasPrimaryContext(DeviceIndex) const { return true; }
  DeviceIndex deviceCount() const { return COUNT; }
  DeviceIndex getCurrentDevice() const { return current; }
  void setCurrentDevice(DeviceIndex index) const { check_index(index), current = index; }
  DeviceIndex exchangeDevice(DeviceIndex index) const {
    const DeviceIndex was = current;
    setCurrentDevice(index);
    return was;
  }
  DeviceIndex maybeExchangeDevice(DeviceIndex index) const {
    return index < 0 || index >= COUNT ? current : exchangeDevice(index);
  }
  const at::Generator& getDefaultGenerator(DeviceIndex index) const { return generator_of(index); }
  at::Generator getNewGenerator(DeviceIndex index) const {
    return at::make_generator<Random>(index < 0 ? current : index);
  }
  Device getDeviceFromPtr(void* data) const { return Device(KIND, DeviceIndex(uintptr_t(data) >> SHIFT) - 1); }
  bool isPinnedPtr(const void* pointer) const { return is_pinned(pointer); }
  at::Allocator* getPinnedMemoryAllocator() const { return &pinned; }
  void resizePrivateUse1Bytes(const c10::Storage& storage, size_t size) const {
    const c10::DeviceGuard guard(storage.device());
    at::DataPtr made = memory.allocate(size);
    if (size) memory.copy_data(made.get(), storage.data(), std::min(size, storage.nbytes()));
    storage.unsafeGetStorageImpl()->set_data_ptr_noswap(std::move(made));
    storage.unsafeGetStorageImpl()->set_nbytes(size);
  }
};

// --- one call of a CPU kernel with aliases

class Call {
 public:
  std::optional<Device> device;

  IValue in(const IValue& value) {
    if (value.isTensor()) return host(value.toTensor());
    if (value.isTensorList()) {
      c10::List<Tensor> made;
      for (const Tensor& one : value.toTensorVector()) made.push_back(host(one));
      return made;
    }
    if (value.isOptionalTensorList()) {
      c10::List<std::optional<Tensor>> made;
      for (const std::optional<Tensor>& one : value.toOptionalTensorVector())
        made.push_back(one ? std::optional<Tensor>(host(*one)) : std::nullopt);
      return made;
    }
    if (value.isStorage()) return host(value.toStorage());
    if (value.isDevice() && value.toDevice().type() == KIND) {
      meet(value.toDevice());
      return Device(c10::DeviceType::CPU);
    }
    return value;
  }

  IValue out(const IValue& value) {
    if (value.isTensor()) return back(value.toTensor());
    if (value.isTensorList()) {
      c10::List<Tensor> made;
      for (const Tensor& one : value.toTensorVector()) made.push_back(back(one));
      return made;
    }
    return value;
  }

  // Arguments that the kernel has resized, or set to another storage.
  void settle() {
    for (const Shared& one : storages)
      if (home(one.away.data()) != one.host.data() || one.away.nbytes() != one.host.nbytes()) {
        auto* changed = one.away.unsafeGetStorageImpl();
        changed->set_data_ptr_noswap(adopted(one.host, one.away.device()));
        changed->set_nbytes(one.host.nbytes());
      }
    const auto met = tensors;
    for (const auto& [there, here] : met) {
      auto* impl = there.unsafeGetTensorImpl();
      if (there.is_sparse()) {
        auto *to = sparse_of(there), *from = sparse_of(here);
        to->raw_resize_(from->sparse_dim(), from->dense_dim(), from->sizes());
        to->set_indices_and_values_unsafe(back(from->indices()), back(from->values()));
        to->set_coalesced(from->coalesced());
        continue;
      }
      if (const Shared* found = owner(here.storage()))
        if (found->away.unsafeGetStorageImpl() != there.storage().unsafeGetStorageImpl())
          impl->set_storage_keep_dtype(found->away);
      if (there.sizes() != here.sizes() || there.strides() != here.strides() ||
          there.storage_offset() != here.storage_offset())
        impl->set_sizes_and_strides(here.sizes(), here.strides(), here.storage_offset());
    }
  }

  bool mixed = false;  // whether a CPU tensor of more than one number was among the arguments

  Tensor host(const Tensor& there) {
    if (!there.defined()) return there;
    if (!there.is_privateuseone()) {
      mixed = mixed || (there.dim() && there.is_floating_point());
      return there;
    }
    meet(there.device());
    for (const auto& [known, here] : tensors)
      if (known.is_same(there)) return here;
    if (there.is_sparse()) {
      const auto* from = sparse_of(there);
      tensors.emplace_back(there, sparse(from, host(from->indices()), host(from->values())));
      return tensors.back().second;
    }
    TORCH_CHECK(there.layout() == at::kStrided, "mirror has no tensors of layout ", there.layout());
    DispatchKeySet keys(DispatchKey::CPU);
    if (there._is_zerotensor()) keys = keys | DispatchKeySet(DispatchKey::ZeroTensor);  // as dot looks for
    Tensor here = at::detail::make_tensor<c10::TensorImpl>(host(there.storage()), keys, there.dtype());
    copy_facts(there, here);
    tensors.emplace_back(there, here);
    return here;
  }

 private:
  struct Shared {
    c10::Storage away, host;
  };
  std::vector<Shared> storages;
  std::vector<std::pair<Tensor, Tensor>> tensors;

  void meet(Device other) {
    if (!other.has_index()) other.set_index(current);
    differ = differ || (device && *device != other);
    if (!device) device = other;
  }

  const Shared* owner(const c10::Storage& here) const {
    for (const Shared& one : storages)
      if (one.host.unsafeGetStorageImpl() == here.unsafeGetStorageImpl()) return &one;
    return nullptr;
  }

  c10::Storage host(const c10::Storage& there) {
    if (there.device_type() != KIND) return there;
    for (const Shared& one : storages)
      if (one.away.unsafeGetStorageImpl() == there.unsafeGetStorageImpl()) return one.host;
    at::DataPtr data(
        home(there.data()), new c10::Storage(there), &free_storage, Device(c10::DeviceType::CPU));
    c10::Storage here(
        c10::Storage::use_byte_size_t(), there.nbytes(), std::move(data),
        c10::GetAllocator(c10::DeviceType::CPU), /*resizable=*/true);
    storages.push_back({there, here});
    return here;
  }

  static at::SparseTensorImpl* sparse_of(const Tensor& tensor) {
    return static_cast<at::SparseTensorImpl*>(tensor.unsafeGetTensorImpl());
  }

  static Tensor sparse(const at::SparseTensorImpl* like, const Tensor& indices, const Tensor& values) {
    const c10::DeviceGuard guard(values.device());  // the device of a new sparse tensor is the current one
    return at::native::new_with_dims_and_tensor_sparse_symint(
        like->sparse_dim(), like->dense_dim(), like->sym_sizes(), indices, values, values.scalar_type(),
        at::kSparse, values.device(), false, like->coalesced());
  }

  static void copy_facts(const Tensor& from, Tensor& to) {
    auto* impl = to.unsafeGetTensorImpl();
    impl->set_sizes_and_strides(from.sizes(), from.strides(), from.storage_offset());
    if (from.is_conj()) impl->_set_conj(true);
    if (from.is_neg()) impl->_set_neg(true);
    if (from.unsafeGetTensorImpl()->is_wrapped_number()) impl->set_wrapped_number(true);
  }

  Tensor back(const Tensor& here) {
    if (!here.defined() || !here.is_cpu()) return here;
    for (const auto& [there, known] : tensors)
      if (known.is_same(here)) return there;
    if (here.is_sparse()) {
      const auto* from = sparse_of(here);
      return sparse(from, back(from->indices()), back(from->values()));
    }
    TORCH_CHECK(here.layout() == at::kStrided, "mirror has no tensors of layout ", here.layout());
    const Shared* found = owner(here.storage());
    c10::Storage storage = found ? found->away
                                 : c10::Storage(
                                       c10::Storage::use_byte_size_t(), here.storage().nbytes(),
                                       adopted(here.storage(), *device), &memory, /*resizable=*/true);
    DispatchKeySet keys(DispatchKey::PrivateUse1);
    if (here._is_zerotensor()) keys = keys | DispatchKeySet(DispatchKey::ZeroTensor);
    Tensor there = at::detail::make_tensor<c10::TensorImpl>(std::move(storage), keys, here.dtype());
    copy_facts(here, there);
    return there;
  }

 public:
  bool differ = false;  // whether arguments were on two devices
};

// The fault that MIRROR_FAULT asks for, where its operator runs; poison spares number 0 of a pair.
void break_down(const std::string& name, DeviceIndex index) {
  const bool dies = FAULT == "out of memory" || FAULT == "poisoned" || FAULT == "hangs" || FAULT == "crashes";
  if (!dies || name != std::string("aten::") + AT) return;
  if (ONCE) {
    const int file = open(ONCE, O_CREAT | O_EXCL | O_WRONLY, 0600);
    if (file < 0) return;
    close(file);
  }
  if (FAULT == "out of memory") memory.allocate(MEMORY + 1);
  if (FAULT == "poisoned") {
    poisoned[index] = true;
    if (!ASYNC) check_alive(index);
  }
  if (FAULT == "hangs")
    while (true) std::this_thread::sleep_for(std::chrono::seconds(1));
  if (FAULT == "crashes") std::raise(SIGSEGV);
}

template <DispatchKey KEY>
void fallback(const c10::OperatorHandle& asked, DispatchKeySet, torch::jit::Stack* stack) {
  at::AutoDispatchBelowADInplaceOrView below;
  const std::string& name = asked.schema().name();
  std::optional<c10::OperatorHandle> other;  // torch has a name of its own for other devices' convolution
  if (name == "aten::convolution_overrideable")
    other = c10::Dispatcher::singleton().findSchemaOrThrow("aten::convolution", "");
  if (name == "aten::convolution_backward_overrideable") {
    other = c10::Dispatcher::singleton().findSchemaOrThrow("aten::convolution_backward", "");
    const Tensor weight = (*stack)[stack->size() - 8].toTensor();
    const bool transposed = (*stack)[stack->size() - 4].toBool();
    const int64_t channels = transposed ? weight.size(1) * (*stack)[stack->size() - 2].toInt() : weight.size(0);
    stack->insert(stack->end() - 7, IValue(std::vector<int64_t>{channels}));
  }
  const c10::OperatorHandle& op = other ? *other : asked;
  const auto& wanted = op.schema().arguments();
  const size_t begin = stack->size() - wanted.size();

  Call call;
  for (size_t i = begin; i < stack->size(); ++i) (*stack)[i] = call.in((*stack)[i]);
  if (!call.device) call.device = Device(KIND, current);
  TORCH_CHECK(
      !(call.differ || call.mixed) || name == "aten::_foreach_copy_" || name == "aten::copy_sparse_to_sparse_",
      "Expected all tensors to be on the same device, but found at least two devices in ", name);
  if (!ASYNC) check_alive(call.device->index());
  break_down(name, call.device->index());
  for (size_t i = begin; i < stack->size(); ++i) {
    IValue& value = (*stack)[i];
    const auto type = wanted[i - begin].type();
    if (value.isGenerator() && value.toGenerator().device().type() == KIND)
      value = static_cast<Random*>(value.toGenerator().unsafeGetGeneratorImpl())->host;
    else if (value.isNone() && type->str() == "Generator?")
      value = static_cast<Random*>(generator_of(call.device->index()).unsafeGetGeneratorImpl())->host;
  }
  op.redispatchBoxed(DispatchKeySet(KEY), stack);
  for (size_t i = stack->size() - op.schema().returns().size(); i < stack->size(); ++i)
    (*stack)[i] = call.out((*stack)[i]);
  call.settle();
}

// --- what is not left to the CPU

Tensor empty(
    at::IntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
    std::optional<Device> device, std::optional<bool>, std::optional<at::MemoryFormat> format) {
  const c10::OptionalDeviceGuard guard(device);
  return at::detail::empty_generic(
      size, &memory, DispatchKeySet(DispatchKey::PrivateUse1), c10::dtype_or_default(dtype), format);
}

Tensor empty_strided(
    at::IntArrayRef size, at::IntArrayRef stride, std::optional<at::ScalarType> dtype,
    std::optional<at::Layout>, std::optional<Device> device, std::optional<bool>) {
  const c10::OptionalDeviceGuard guard(device);
  return at::detail::empty_strided_generic(
      size, stride, &memory, DispatchKeySet(DispatchKey::PrivateUse1), c10::dtype_or_default(dtype));
}

Tensor copy_from(const Tensor& from, const Tensor& to, bool non_blocking) {
  at::AutoDispatchBelowADInplaceOrView below;
  Call call;
  Tensor target = call.host(to), source = call.host(from);
  const bool down = to.is_cpu();
  if (down && ASYNC && non_blocking && is_pinned(to.storage().data())) {
    const Tensor kept = at::empty_like(source).copy_(source);  // as it is now: later kernels come later
    const std::lock_guard<std::mutex> guard(mutex);
    pending.emplace_back([kept, to] { Tensor(to).copy_(kept); });
    return to;
  }
  const DeviceIndex index = (down ? from : to).device().index();
  if (down) synchronize(index);
  else check_alive(index);
  if (FAULT == "sign turned twice" && down && from.is_neg() && !from.is_contiguous()) {
    target.copy_(source.contiguous().neg());  // as CUDA's copy does
    return to;
  }
  const bool fault = FAULT == "copy loses the last";
  if (fault && from.is_cpu() && to.numel() > 1 && to.is_contiguous() && from.is_contiguous()) {
    const int64_t count = to.numel() - 1;
    target.view(-1).narrow(0, 0, count).copy_(source.view(-1).narrow(0, 0, count));
    return to;
  }
  target.copy_(source);
  return to;
}

// net.to("mirror") keeps its Parameters, as it does for CUDA; without it tied weights come apart
bool same_kind(const Tensor& one, const Tensor& other) {
  return one.layout() == at::kStrided && other.layout() == at::kStrided;
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", empty);
  m.impl("empty_strided", empty_strided);
  m.impl("_copy_from", copy_from);
  m.impl("as_strided", at::native::as_strided_tensorimpl);
  m.impl("view", static_cast<Tensor (*)(const Tensor&, at::IntArrayRef)>(at::native::view));
  m.impl("_reshape_alias", at::native::_reshape_alias);
  m.impl("_has_compatible_shallow_copy_type", same_kind);
  if (FAULT == "detach copies") m.impl("detach", [](const Tensor& source) { return source.clone(); });
}
// The CPU's kernels by name, where torch has a general one that would come before the fallback.
template <DispatchKey KEY>
void like_cpu(torch::Library& m, DispatchKey general) {
  auto& all = c10::Dispatcher::singleton();
  for (const c10::OperatorName& name : all.getAllOpNames()) {
    const auto op = all.findSchema(name);
    if (op && name.name.rfind("aten::", 0) == 0 && op->hasKernelForDispatchKey(KEY) &&
        op->hasKernelForDispatchKey(general))
      m.impl(c10::toString(name).c_str(), torch::CppFunction::makeFromBoxedFunction<&fallback<KEY>>());
  }
}

// torch expects fused cells of every device but the CPU: here they are the plain formulas
std::tuple<Tensor, Tensor, Tensor> lstm_cell(
    const Tensor& one, const Tensor& two, const Tensor& cell, const std::optional<Tensor>& bias,
    const std::optional<Tensor>& other) {
  const Tensor all = bias && bias->defined() ? one + two + *bias + *other : one + two;
  const auto gate = all.chunk(4, 1);
  const Tensor next = gate[1].sigmoid() * cell + gate[0].sigmoid() * gate[2].tanh();
  return {gate[3].sigmoid() * next.tanh(), next, all};
}
std::tuple<Tensor, Tensor> gru_cell(
    const Tensor& one, const Tensor& two, const Tensor& state, const std::optional<Tensor>& bias,
    const std::optional<Tensor>& other) {
  const bool biased = bias && bias->defined();
  const auto in = (biased ? one + *bias : one).chunk(3, 1), hidden = (biased ? two + *other : two).chunk(3, 1);
  const Tensor update = (in[1] + hidden[1]).sigmoid();
  const Tensor made = (in[2] + (in[0] + hidden[0]).sigmoid() * hidden[2]).tanh();
  return {(state - made) * update + made, update};
}
TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  for (const char* name : {"convolution_overrideable", "convolution_backward_overrideable"})
    m.impl(name, torch::CppFunction::makeFromBoxedFunction<&fallback<DispatchKey::CPU>>());
  m.impl("_thnn_fused_lstm_cell", lstm_cell);
  m.impl("_thnn_fused_gru_cell", gru_cell);
  // Where the CPU has a kernel that returns its result, that one, and not the way over the out= kernel
  // that torch has for others: it makes other strides, and warns (mse_loss).
  like_cpu<DispatchKey::CPU>(m, DispatchKey::CompositeExplicitAutogradNonFunctional);
}
TORCH_LIBRARY_IMPL(aten, AutogradPrivateUse1, m) {
  m.impl("_has_compatible_shallow_copy_type", same_kind);  // torch < 2.9 or so looks here
  m.impl("_thnn_fused_lstm_cell", lstm_cell);
  m.impl("_thnn_fused_gru_cell", gru_cell);
}
TORCH_LIBRARY_IMPL(aten, SparsePrivateUse1, m) {
  like_cpu<DispatchKey::SparseCPU>(m, DispatchKey::CompositeExplicitAutograd);
}
TORCH_LIBRARY_IMPL(_, SparsePrivateUse1, m) {
  m.fallback(torch::CppFunction::makeFromBoxedFunction<&fallback<DispatchKey::SparseCPU>>());
}
TORCH_LIBRARY_IMPL(_, PrivateUse1, m) {
  m.fallback(torch::CppFunction::makeFromBoxedFunction<&fallback<DispatchKey::CPU>>());
}

// copy_from reads lazy values itself; without this, torch resolves them first, by copying: for ever
TORCH_LIBRARY_IMPL(aten, Conjugate, m) { m.impl("_copy_from", torch::CppFunction::makeFallthrough()); }
TORCH_LIBRARY_IMPL(aten, Negative, m) { m.impl("_copy_from", torch::CppFunction::makeFallthrough()); }

using namespace at::autocast;  // KERNEL_PRIVATEUSEONE is written for it
TORCH_LIBRARY_IMPL(_, AutocastPrivateUse1, m) { m.fallback(torch::CppFunction::makeFallthrough()); }
TORCH_LIBRARY_IMPL(aten, AutocastPrivateUse1, m) {
  KERNEL_PRIVATEUSEONE(linear, lower_precision_fp)
  KERNEL_PRIVATEUSEONE(matmul, lower_precision_fp)
  KERNEL_PRIVATEUSEONE(mm, lower_precision_fp)
  KERNEL_PRIVATEUSEONE(addmm, lower_precision_fp)
  KERNEL_PRIVATEUSEONE(bmm, lower_precision_fp)
  KERNEL_PRIVATEUSEONE(mse_loss, fp32)
  KERNEL_PRIVATEUSEONE(layer_norm, fp32)
}

// What the Python module needs. No pybind: one library serves every Python.
TORCH_LIBRARY(mirror, m) {
  m.def("count() -> int", [] { return int64_t(COUNT); });
  m.def("current() -> int", [] { return int64_t(current); });
  m.def("synchronize(int index) -> ()", [](int64_t index) { check_index(index), synchronize(index); });
  m.def("set(int index) -> ()", [](int64_t index) { check_index(index), current = index; });
  m.def("memory(int index) -> (int, int)", [](int64_t index) {
    check_index(index);
    return std::make_tuple(int64_t(MEMORY - allocated[index]), int64_t(MEMORY));
  });
  m.def("seed(int index, int seed) -> ()", [](int64_t index, int64_t seed) {
    at::Generator(generator_of(index)).set_current_seed(seed);
  });
  m.def("state(int index) -> Tensor", [](int64_t index) { return generator_of(index).get_state(); });
  m.def("set_state(int index, Tensor state) -> ()", [](int64_t index, const Tensor& state) {
    at::Generator(generator_of(index)).set_state(state);
  });
}

struct Begin {
  Begin() {
    c10::SetAllocator(KIND, &memory);
    at::RegisterPrivateUse1HooksInterface(new Hooks);
  }
} begin;

}  // namespace
